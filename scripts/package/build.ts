// `npm run build`: what a checkout can do without, and has then at once: the web console and the bundles.

import { buildBundles } from "./build-bundles.ts";

await buildBundles();
await import("../../console/build.ts");

// How programs and libraries take a connection URI.

export interface Snippet {
  readonly title: string;
  /** `proxyHttpPort`: where the proxy answers SQL over HTTP. */
  text(uri: string, proxyHttpPort: number): string;
}

/** With another scheme, and without `sslmode`, as JDBC has it. */
function jdbc(uri: string): string {
  const { host, pathname, username, password } = new URL(uri.replace(/^postgresql:/, "http:"));
  return [
    `String url = "jdbc:postgresql://${host}${pathname}?sslmode=require";`,
    `Connection c = DriverManager.getConnection(url, "${decodeURIComponent(username)}", "${decodeURIComponent(password)}");`,
  ].join("\n");
}

/** The driver takes the proxy to be at port 443, with TLS. */
function serverless(uri: string, proxyHttpPort: number): string {
  return [
    'import { neon, neonConfig } from "@neondatabase/serverless";',
    "",
    `neonConfig.fetchEndpoint = (host) => \`http://\${host}:${proxyHttpPort}/sql\`;`,
    "",
    `const sql = neon("${uri}");`,
    "console.log(await sql`select version()`);",
  ].join("\n");
}

export const SNIPPETS: readonly Snippet[] = [
  { title: "URI", text: (uri) => uri },
  { title: "psql", text: (uri) => `psql '${uri.replaceAll("'", "%27")}'` },
  { title: ".env", text: (uri) => `DATABASE_URL="${uri}"` },
  {
    title: "Node",
    text: (uri) =>
      `import postgres from "postgres";\n\nconst sql = postgres("${uri}");\nconsole.log(await sql\`select version()\`);`,
  },
  {
    title: "Drizzle",
    text: (uri) =>
      `import { drizzle } from "drizzle-orm/node-postgres";\n\nconst db = drizzle("${uri}");\nconsole.log(await db.execute("select version()"));`,
  },
  {
    title: "Prisma",
    text: (uri) =>
      `// schema.prisma\ndatasource db {\n  provider = "postgresql"\n  url      = env("DATABASE_URL")\n}\n\n# .env\nDATABASE_URL="${uri}"`,
  },
  {
    title: "Python",
    text: (uri) =>
      `import psycopg\n\nwith psycopg.connect("${uri}") as connection:\n    print(connection.execute("select version()").fetchone())`,
  },
  { title: "Java", text: jdbc },
  { title: "Serverless", text: serverless },
];

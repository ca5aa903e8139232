// CRC-32C speed by length, inside one large buffer as a WAL stream uses it.

import { CRC32C_START, updateCrc32c } from "../../src/base/crc32c.ts";

const buffer = new Uint8Array(1 << 20);
for (let i = 0; i < buffer.length; i++) {
  buffer[i] = (i * 2654435761) >>> 13;
}
for (let round = 0; round < 2; round++) {
  for (const length of [16, 20, 40, 104, 200, 504, 2000, 8192, 65536]) {
    const calls = Math.ceil(4e8 / (length + 60));
    let state = CRC32C_START;
    const begin = performance.now();
    for (let i = 0, at = 0; i < calls; i++) {
      state ^= updateCrc32c(CRC32C_START, buffer, at, at + length);
      at = (at + length + 7) & ~7;
      if (at + length > buffer.length) {
        at = 0;
      }
    }
    const ns = ((performance.now() - begin) * 1e6) / calls;
    if (round === 1) {
      const mbps = (length / ns) * 1000;
      console.log(`${length} B: ${ns.toFixed(0)} ns, ${mbps.toFixed(0)} MB/s (${state & 1})`);
    }
  }
}

import assert from "node:assert/strict";
import { Duplex } from "node:stream";
import { describe, test } from "node:test";
import { turn } from "../../base/clock.ts";
import { cstring, encodeMessage } from "../../postgres/wire/wire-messages.ts";
import type { ComputeConnection } from "./compute-connection.ts";
import { untilFirstWord } from "./first-word.ts";

class Side extends Duplex {
  readonly written: Buffer[] = [];

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.written.push(chunk);
    done();
  }

  get text(): string {
    return Buffer.concat(this.written).toString("latin1");
  }
}

function computeOf(name: string): ComputeConnection {
  const greeting = encodeMessage("S", cstring("application_name"), cstring(name));
  const socket = new Side();
  const made = { socket, greeting, onData: () => true, close: () => socket.destroy() };
  return made as unknown as ComputeConnection;
}

const error = (sqlstate: string) =>
  encodeMessage(
    "E",
    cstring("SFATAL"),
    cstring(`C${sqlstate}`),
    cstring("Mends"),
    Buffer.from([0]),
  );

async function turns(): Promise<void> {
  for (let i = 0; i < 5; i++) {
    await turn();
  }
}

describe("untilFirstWord", () => {
  const begin = () => {
    const client = new Side();
    const compute = computeOf("first");
    let logins = 0;
    const login = async () => {
      logins++;
      return computeOf("second");
    };
    const connection = untilFirstWord(client, compute, login);
    return { client, compute, connection, logins: () => logins };
  };

  test("the client speaks first: its bytes are left for the connection that it has", async () => {
    const { client, compute, connection, logins } = begin();
    client.push("Q");
    assert.equal(await connection, compute);
    assert.equal(client.read()?.toString(), "Q");
    assert.equal(logins(), 0);
  });

  test("a compute that ends is not told of, and another login made when the client speaks", async () => {
    for (const sqlstate of ["57P01", "57P02", "57P03"]) {
      const { client, compute, connection, logins } = begin();
      const bytes = error(sqlstate);
      compute.onData(bytes.subarray(0, 7));
      compute.onData(bytes.subarray(7));
      await turns();
      assert.equal(logins(), 0);
      assert.equal(compute.socket.destroyed, true);
      client.push("Q");
      const next = await connection;
      assert.notEqual(next, compute);
      assert.equal(client.text, next.greeting.toString("latin1"));
      assert.equal(client.read()?.toString(), "Q");
    }
  });

  test("a connection that breaks is made again, too", async () => {
    const { client, compute, connection } = begin();
    compute.socket.destroy();
    await turns();
    client.push("Q");
    assert.notEqual(await connection, compute);
  });

  test("what Postgres tells an idle session is passed on; another end of it as well", async () => {
    const { client, compute, connection, logins } = begin();
    const parameter = encodeMessage("S", cstring("TimeZone"), cstring("UTC"));
    compute.onData(parameter.subarray(0, 3));
    compute.onData(Buffer.concat([parameter.subarray(3), parameter, error("57P05")]));
    assert.equal(await connection, compute);
    assert.equal(
      client.text,
      Buffer.concat([parameter, parameter, error("57P05")]).toString("latin1"),
    );
    assert.equal(logins(), 0);
  });

  test("half a message goes to the client before what the tunnel passes on", async () => {
    const { client, compute, connection } = begin();
    const parameter = encodeMessage("S", cstring("TimeZone"), cstring("UTC"));
    compute.onData(parameter.subarray(0, 3));
    client.push("Q");
    await connection;
    compute.onData(parameter.subarray(3));
    assert.equal(client.text, parameter.toString("latin1"));
  });

  test("a client that goes away wakes nothing", async () => {
    const { client, compute, connection, logins } = begin();
    compute.onData(error("57P01"));
    await turns();
    client.destroy();
    assert.equal(await connection, compute);
    assert.equal(logins(), 0);
  });

  test("a client that ends wakes nothing, and leaves no connection", async () => {
    const asleep = begin();
    asleep.compute.onData(error("57P01"));
    await turns();
    asleep.client.push(null);
    assert.equal(await asleep.connection, asleep.compute);
    assert.equal(asleep.logins(), 0);
    const awake = begin();
    awake.client.push(null);
    assert.equal(await awake.connection, awake.compute);
    assert.equal(awake.compute.socket.destroyed, true);
  });
});

// What one caller may cost a server: sizes, times and numbers, the same for every component.

export interface HttpLimits {
  /** From a connection, or the end of the request before, to the end of a request's headers. */
  readonly headersTimeoutMs: number;
  /** To the end of a request's body. How long the answer takes is not limited. */
  readonly requestTimeoutMs: number;
  /** An idle connection is kept open for the next request so long. */
  readonly keepAliveTimeoutMs: number;
  /** A caller that does not read its answer. */
  readonly sendTimeoutMs: number;
  /** How often the times are looked at. */
  readonly checkIntervalMs: number;
  readonly maxHeaderBytes: number;
  readonly maxHeaders: number;
  readonly maxBodyBytes: number;
  /** Further ones are closed at once. */
  readonly maxConnections: number;
  /** Of a stop: requests that are being answered get so long. */
  readonly closeGraceMs: number;
}

export const HTTP_LIMITS: HttpLimits = {
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 30_000,
  keepAliveTimeoutMs: 5_000,
  sendTimeoutMs: 60_000,
  checkIntervalMs: 1_000,
  maxHeaderBytes: 16 * 1024,
  maxHeaders: 100,
  maxBodyBytes: 1024 * 1024,
  maxConnections: 1_000,
  closeGraceMs: 5_000,
};

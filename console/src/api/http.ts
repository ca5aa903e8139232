// Requests to the control plane, with the session's cookie, and what became of them.

/** What the control plane said of a request that failed; status 0: nobody answered. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Where one logs in, asks whether one is, and logs out. */
export const SESSION_PATH = "/console/session";
const UNAUTHORIZED = 401;
/** Another operation of the project goes on: the page shows which. Starts take seconds on a slow machine. */
const BUSY = 423;
const BUSY_RETRIES = 60;
const BUSY_WAIT_MS = 500;

let sessionEnded = () => {};

/** Whatever is asked for when it is noticed. */
export function whenSessionEnds(callback: () => void): void {
  sessionEnded = callback;
}

/** A path of API v2. While another operation of the project goes on, it waits. */
export async function api<T>(method: Method, path: string, body?: unknown): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await request<T>(method, `/api/v2${path}`, body);
    } catch (error) {
      const isBusy = error instanceof ApiError && error.status === BUSY;
      if (!isBusy || method === "GET" || attempt >= BUSY_RETRIES) {
        throw error;
      }
      await new Promise((resolve) => setTimeout(resolve, BUSY_WAIT_MS));
    }
  }
}

export async function request<T>(method: Method, path: string, body?: unknown): Promise<T> {
  const response = await send(method, path, body);
  const text = await response.text();
  return (text === "" ? undefined : JSON.parse(text)) as T;
}

/** The answer of a request that succeeded, unread. Rejects with ApiError, or the signal's reason. */
export async function send(
  method: Method,
  path: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers: method === "GET" ? {} : { "content-type": "application/json" },
      ...(method === "GET" ? {} : { body: JSON.stringify(body ?? {}) }),
      ...(signal === undefined ? {} : { signal }),
    });
  } catch (error) {
    if (signal?.aborted) {
      throw error;
    }
    throw new ApiError(0, "NO_ANSWER", "Strata does not answer. Is it running?");
  }
  if (response.status === UNAUTHORIZED && path !== SESSION_PATH) {
    sessionEnded();
  }
  if (!response.ok) {
    throw await errorOf(response);
  }
  return response;
}

async function errorOf(response: Response): Promise<ApiError> {
  const text = await response.text();
  try {
    const { message, code } = JSON.parse(text) as { message?: string; code?: string };
    return new ApiError(response.status, code ?? "", message ?? text);
  } catch {
    return new ApiError(response.status, "", text || response.statusText);
  }
}

export function isUnauthorized(error: unknown): boolean {
  return error instanceof ApiError && error.status === UNAUTHORIZED;
}

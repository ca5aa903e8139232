// What went wrong, and what there is nothing of.

import type { ReactNode } from "react";
import { ApiError } from "../api/http.ts";

export function ErrorNotice({ error }: { readonly error: Error }) {
  return (
    <p className="notice error" role="alert">
      {error.message}
      {error instanceof ApiError && error.code !== "" && (
        <small className="code">{error.code.toLowerCase().replaceAll("_", " ")}</small>
      )}
    </p>
  );
}

export function Empty({ children }: { readonly children: ReactNode }) {
  return <div className="empty">{children}</div>;
}

/** Anything can be thrown. */
export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(`${thrown}`);
}

// Shows the console to who is logged in, and the log-in to everybody else.

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useEffect, useState } from "react";
import { request, SESSION_PATH } from "../api/http.ts";
import { queryClient, sessionQuery } from "../api/queries.ts";
import { ErrorNotice } from "../parts/notice.tsx";
import { forgetRuns } from "../sql/sql-runs.ts";
import { LogIn } from "./log-in.tsx";

/** Behind `#token=`: never sent but in the body of one request, and out of the address at once. */
function takeToken(): string | undefined {
  const token = /^#token=([\w-]+)$/.exec(location.hash)?.[1];
  if (token !== undefined) {
    history.replaceState(null, "", "/");
  }
  return token;
}

/** Once a page: React may run effects twice. */
const linkToken = takeToken();
let redeemed: Promise<void> | undefined;

function redeem(): Promise<void> {
  redeemed ??= request<void>("POST", SESSION_PATH, { token: linkToken });
  return redeemed;
}

export function SessionGate({ children }: { readonly children: ReactNode }) {
  const [linkError, setLinkError] = useState<Error>();
  const [isRedeemed, setIsRedeemed] = useState(linkToken === undefined);
  const session = useQuery({ ...sessionQuery, enabled: isRedeemed });
  useEffect(() => {
    if (linkToken !== undefined) {
      redeem()
        .catch((error) => setLinkError(error))
        .finally(() => {
          setIsRedeemed(true);
        });
    }
  }, []);
  const isLoggedOut = session.data === null;
  useEffect(() => {
    if (isLoggedOut) {
      forgetRuns();
    }
  }, [isLoggedOut]);
  if (session.error) {
    return (
      <main className="alone">
        <ErrorNotice error={session.error} />
        <button type="button" onClick={() => void session.refetch()}>
          Try again
        </button>
      </main>
    );
  }
  if (session.data === undefined) {
    return <main className="alone" aria-busy="true" />;
  }
  return session.data === null ? <LogIn linkError={linkError} /> : children;
}

export async function logOut(): Promise<void> {
  await request("DELETE", SESSION_PATH);
  // The gate looks at this one: it stays, all else was for who has gone.
  queryClient.setQueryData(sessionQuery.queryKey, null);
  queryClient.removeQueries({ predicate: ({ queryKey }) => queryKey[0] !== "session" });
}

// The way in for who has no session: a new link, or an API key.

import { useMutation } from "@tanstack/react-query";
import { type FormEvent, useState } from "react";
import { request, SESSION_PATH } from "../api/http.ts";
import { queryClient, sessionQuery } from "../api/queries.ts";
import { Logo } from "../parts/logo.tsx";
import { ErrorNotice } from "../parts/notice.tsx";

export function LogIn({ linkError }: { readonly linkError: Error | undefined }) {
  const [key, setKey] = useState("");
  const logIn = useMutation({
    mutationFn: () => request("POST", SESSION_PATH, { api_key: key.trim() }),
    onSuccess: () => queryClient.invalidateQueries({ queryKey: sessionQuery.queryKey }),
  });
  const submit = (event: FormEvent) => {
    event.preventDefault();
    logIn.mutate();
  };
  return (
    <main className="alone">
      <form className="card log-in" onSubmit={submit}>
        <Logo />
        <h1>Log in to Strata</h1>
        {linkError && <ErrorNotice error={linkError} />}
        <p>
          <code>strata console</code> prints a link that logs you in. It works once.
        </p>
        <label className="field">
          <span>Or an API key</span>
          <input
            type="password"
            autoComplete="off"
            spellCheck={false}
            required
            placeholder="strata_…"
            value={key}
            onChange={(event) => setKey(event.target.value)}
          />
          <small>
            The owner's is in <code>control_plane/api.key</code> of the home.
          </small>
        </label>
        {logIn.error && <ErrorNotice error={logIn.error} />}
        <button type="submit" className="primary" disabled={logIn.isPending}>
          Log in
        </button>
      </form>
    </main>
  );
}

// What is asked before a branch is made or changed, and the request that does it.

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";
import { api } from "../api/http.ts";
import { queryClient } from "../api/queries.ts";
import type { TreeBranch } from "../api/types.ts";
import { FormDialog } from "../parts/dialog.tsx";
import { NameField, NameToConfirm } from "../parts/name-field.tsx";
import { timeText } from "../parts/words.ts";
import { PointField, pointBody } from "./point-field.tsx";

export type BranchAction =
  | "create"
  | "rename"
  | "reset"
  | "restore"
  | "protect"
  | "expire"
  | "default"
  | "delete";

export interface BranchWish {
  readonly action: BranchAction;
  readonly of: TreeBranch;
  /** Of `create`: an LSN or a time; absent: its head. */
  readonly at?: string | undefined;
}

interface Props {
  readonly wish: BranchWish;
  readonly branches: readonly TreeBranch[];
  readonly onClose: () => void;
}

export function BranchDialog(props: Props) {
  const FORMS = {
    create: Create,
    rename: Rename,
    restore: Restore,
    expire: Expire,
    delete: Delete,
  };
  const { action } = props.wish;
  if (action === "reset" || action === "protect" || action === "default") {
    return <Confirm {...props} action={action} />;
  }
  const Form = FORMS[action];
  return <Form {...props} />;
}

/** Runs the request, has the project read again, and closes. */
function useChange(of: TreeBranch, onClose: () => void, change: () => Promise<unknown>) {
  return useMutation({
    mutationFn: change,
    onSuccess: onClose,
    onSettled: () => queryClient.invalidateQueries({ queryKey: ["project", of.branch.project_id] }),
  });
}

function pathOf({ branch }: TreeBranch): string {
  return `/projects/${branch.project_id}/branches/${branch.id}`;
}

function Create({ wish: { of, at }, branches, onClose }: Props) {
  const [parent, setParent] = useState(of);
  const [name, setName] = useState("");
  const [point, setPoint] = useState(at);
  const [isWithEndpoint, setIsWithEndpoint] = useState(true);
  const change = useChange(of, onClose, () =>
    api("POST", `/projects/${of.branch.project_id}/branches`, {
      branch: {
        ...(name.trim() === "" ? {} : { name: name.trim() }),
        parent_id: parent.branch.id,
        ...pointBody(point, "parent"),
      },
      ...(isWithEndpoint ? { endpoints: [{ type: "read_write" }] } : {}),
    }),
  );
  return (
    <FormDialog
      title="New branch"
      action="Create branch"
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <NameField value={name} onChange={setName} isOptional />
      <label className="field">
        <span>From branch</span>
        <select
          value={parent.branch.id}
          onChange={(event) =>
            setParent(branches.find(({ branch }) => branch.id === event.target.value) ?? of)
          }
        >
          {branches
            .filter(({ branch }) => branch.current_state === "ready")
            .map(({ branch }) => (
              <option key={branch.id} value={branch.id}>
                {branch.name}
              </option>
            ))}
        </select>
      </label>
      <PointField value={point} onChange={setPoint} now="As it is now" of={parent} />
      <label className="check">
        <input
          type="checkbox"
          checked={isWithEndpoint}
          onChange={(event) => setIsWithEndpoint(event.target.checked)}
        />
        With an endpoint, so that it takes connections
      </label>
    </FormDialog>
  );
}

function Rename({ wish: { of }, onClose }: Props) {
  const [name, setName] = useState(of.branch.name);
  const change = useChange(of, onClose, () => api("PATCH", pathOf(of), { branch: { name } }));
  return (
    <FormDialog
      title={`Rename ${of.branch.name}`}
      action="Rename"
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <NameField value={name} onChange={setName} />
    </FormDialog>
  );
}

function Restore({ wish: { of }, onClose }: Props) {
  const [point, setPoint] = useState<string | undefined>(
    new Date(Date.now() - 600_000).toISOString(),
  );
  const [keep, setKeep] = useState(`${of.branch.name}_before_${timeText(Date.now()).slice(0, 10)}`);
  const change = useChange(of, onClose, () =>
    api("POST", `${pathOf(of)}/restore`, {
      source_branch_id: of.branch.id,
      ...pointBody(point, "source"),
      preserve_under_name: keep.trim(),
    }),
  );
  return (
    <FormDialog
      title={`Restore ${of.branch.name}`}
      action="Restore"
      isDanger
      isPending={change.isPending}
      isDisabled={point === undefined}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <p>The branch becomes what it was. Its endpoints start again, and connections to them end.</p>
      <PointField value={point} onChange={setPoint} of={of} />
      <NameField label="Keep what it is now as branch" value={keep} onChange={setKeep} />
    </FormDialog>
  );
}

function Expire({ wish: { of }, onClose }: Props) {
  const [days, setDays] = useState("7");
  const change = useChange(of, onClose, () =>
    api("PATCH", pathOf(of), {
      branch: {
        expires_at:
          days === "" ? null : new Date(Date.now() + Number(days) * 86_400_000).toISOString(),
      },
    }),
  );
  return (
    <FormDialog
      title={`When ${of.branch.name} ends`}
      action="Save"
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      {of.branch.expires_at !== undefined && <p>It ends at {timeText(of.branch.expires_at)}.</p>}
      <label className="field">
        <span>It is deleted, with its endpoints, in</span>
        <select value={days} onChange={(event) => setDays(event.target.value)}>
          <option value="0.0416667">an hour</option>
          <option value="1">a day</option>
          <option value="7">a week</option>
          <option value="30">30 days</option>
          <option value="">never</option>
        </select>
      </label>
    </FormDialog>
  );
}

function Delete({ wish: { of }, branches, onClose }: Props) {
  const [typed, setTyped] = useState("");
  const children = branches.filter(({ branch }) => branch.parent_id === of.branch.id);
  const change = useChange(of, onClose, () => api("DELETE", pathOf(of)));
  return (
    <FormDialog
      title={`Delete ${of.branch.name}`}
      action="Delete for good"
      isDanger
      isPending={change.isPending}
      isDisabled={typed !== of.branch.name}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <p>What was written on it is gone for good.</p>
      {of.endpoints.length > 0 && (
        <div>
          Its endpoints go with it, and connections to them end:
          <ul className="plain">
            {of.endpoints.map(({ id }) => (
              <li key={id}>
                <code>{id}</code>
              </li>
            ))}
          </ul>
        </div>
      )}
      {children.length > 0 && (
        <div>
          Branches of it stay as they are:
          <ul className="plain">
            {children.map(({ branch }) => (
              <li key={branch.id} dir="auto">
                {branch.name}
              </li>
            ))}
          </ul>
        </div>
      )}
      <NameToConfirm name={of.branch.name} value={typed} onChange={setTyped} />
    </FormDialog>
  );
}

function Confirm({
  wish: { of },
  branches,
  onClose,
  action,
}: Props & { readonly action: "reset" | "protect" | "default" }) {
  const path = pathOf(of);
  const parent = branches.find(({ branch }) => branch.id === of.branch.parent_id);
  const WORDS = {
    reset: {
      title: `Reset ${of.branch.name}`,
      text: `It becomes what ${parent?.branch.name ?? "its parent"} is now; what was written on it is gone.`,
      send: () => api("POST", `${path}/restore`, { source_branch_id: of.branch.parent_id }),
    },
    protect: {
      title: of.branch.protected ? `Unprotect ${of.branch.name}` : `Protect ${of.branch.name}`,
      text: of.branch.protected ? "It can be deleted then." : "It cannot be deleted then.",
      send: () => api("PATCH", path, { branch: { protected: !of.branch.protected } }),
    },
    default: {
      title: `Make ${of.branch.name} the default`,
      text: "It is the branch that counts where none is named.",
      send: () => api("POST", `${path}/set_as_default`),
    },
  };
  const words = WORDS[action];
  const change = useChange(of, onClose, words.send);
  return (
    <FormDialog
      title={words.title}
      action={action === "reset" ? "Reset" : "Do it"}
      isDanger={action === "reset"}
      isPending={change.isPending}
      error={change.error}
      onSubmit={() => change.mutate()}
      onClose={onClose}
    >
      <p>{words.text}</p>
    </FormDialog>
  );
}

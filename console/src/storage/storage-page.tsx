// What a branch keeps in the storage: what it costs, its layers drawn and listed.

import { useQuery } from "@tanstack/react-query";
import { useCallback, useMemo, useState } from "react";
import { layersQuery } from "../api/queries.ts";
import type { ConsoleLayers, TreeBranch } from "../api/types.ts";
import { Empty, ErrorNotice } from "../parts/notice.tsx";
import { bytesText, lsnNumber } from "../parts/words.ts";
import { BranchSelect } from "../projects/branch-select.tsx";
import { useBranch } from "../projects/use-branch.ts";
import { Costs } from "./costs.tsx";
import { LayerPicture } from "./layer-picture.tsx";
import { LayerTable } from "./layer-table.tsx";
import { identityOf } from "./shapes.ts";
import "../styles/storage.css";

/** Branch points beyond them are in the picture only. */
const MAX_NAMED = 24;
const NOTHING: ReadonlySet<string> = new Set();

export function StoragePage() {
  const branch = useBranch();
  return (
    <>
      <header className="page-head">
        <h1>Storage</h1>
        <BranchSelect />
      </header>
      {branch === undefined ? (
        <p className="empty" aria-busy="true" />
      ) : (
        <StorageOf key={branch.branch.id} branch={branch} />
      )}
    </>
  );
}

function StorageOf({ branch: { branch } }: { readonly branch: TreeBranch }) {
  const layers = useQuery(layersQuery(branch.project_id, branch.id));
  return (
    <>
      <Costs projectId={branch.project_id} branchId={branch.id} />
      {layers.error && <ErrorNotice error={layers.error} />}
      {layers.data === undefined ? (
        layers.error === null && <p className="empty" aria-busy="true" />
      ) : (
        <LayerMap map={layers.data} />
      )}
    </>
  );
}

function LayerMap({ map }: { readonly map: ConsoleLayers }) {
  const [isOwnOnly, setIsOwnOnly] = useState(false);
  const [choice, setChoice] = useState(NOTHING);
  const { layers } = map;
  const choose = useCallback(
    (places: readonly number[]) =>
      setChoice(new Set(places.map((place) => identityOf(layers[place]!)))),
    [layers],
  );
  const chosen = useMemo(
    () =>
      new Set(
        choice.size === 0
          ? []
          : layers.flatMap((layer, i) => (choice.has(identityOf(layer)) ? [i] : [])),
      ),
    [layers, choice],
  );
  const begin = map.begin_lsn === null ? undefined : lsnNumber(map.begin_lsn);
  const { own, inherited, remote, left_out } = map;
  return (
    <section className="layer-map" aria-labelledby="layer-map-title">
      <div className="section-head">
        <h2 id="layer-map-title">Layers</h2>
        {begin !== undefined && (
          <label className="check">
            <input
              type="checkbox"
              checked={isOwnOnly}
              onChange={(event) => setIsOwnOnly(event.target.checked)}
            />
            Only since it left its parent
          </label>
        )}
      </div>
      <p>
        {own.layers} of its own, {bytesText(own.bytes)}
        {inherited.layers > 0 &&
          `; ${inherited.layers} of its parents, ${bytesText(inherited.bytes)}`}
        {remote.layers > 0 &&
          `; of these ${remote.layers} in the object store only, ${bytesText(remote.bytes)}`}
        .
        {left_out.layers > 0 &&
          ` The oldest ${left_out.layers}, ${bytesText(left_out.bytes)}, are not shown.`}
      </p>
      {map.layers.length === 0 ? (
        <Empty>All that it has is in memory yet.</Empty>
      ) : (
        <>
          <div className="card">
            <LayerPicture
              map={map}
              from={isOwnOnly ? begin : undefined}
              chosen={chosen}
              onChoose={choose}
            />
            <Legend map={map} />
          </div>
          <LayerTable layers={layers} choice={choice} chosen={chosen} onChoose={choose} />
        </>
      )}
    </section>
  );
}

const KINDS = [
  ["l0", "delta of all keys (L0)"],
  ["delta", "delta"],
  ["image", "image"],
] as const;

function Legend({ map }: { readonly map: ConsoleLayers }) {
  const named = map.branch_points.slice(0, MAX_NAMED);
  const marks: readonly (readonly [string, string, string | null])[] = [
    ["head", "newest", map.head_lsn],
    ["memory", "in memory from", map.memory_lsn],
    ["readable", "oldest that can be read", map.readable_lsn],
    ["begin", "left its parent", map.begin_lsn],
    ...named.map(({ name, lsn }) => ["branch", `branch ${name}`, lsn] as const),
  ];
  const more = map.branch_points.length - named.length;
  return (
    <ul className="layer-legend">
      {KINDS.map(([kind, title]) => (
        <li key={kind}>
          <i className={`swatch ${kind}`} /> {title}
        </li>
      ))}
      <li>
        <i className="swatch inherited" /> of a parent
      </li>
      <li>
        <i className="swatch delta remote" /> in the object store only
      </li>
      {marks.map(([kind, title, lsn], i) =>
        lsn === null ? null : (
          <li key={i}>
            <i className={`mark ${kind}`} /> <bdi>{title}</bdi> <code>{lsn}</code>
          </li>
        ),
      )}
      {more > 0 && <li>and {more} more branches</li>}
    </ul>
  );
}

// A plan, as EXPLAIN (FORMAT JSON) tells it, drawn as a tree with what each step costs.

import { msText } from "../parts/words.ts";

export interface PlanNode {
  readonly "Node Type": string;
  readonly "Relation Name"?: string;
  readonly "Index Name"?: string;
  readonly "Total Cost": number;
  readonly "Plan Rows": number;
  readonly "Actual Rows"?: number;
  readonly "Actual Loops"?: number;
  readonly "Actual Total Time"?: number;
  readonly "Shared Read Blocks"?: number;
  readonly Plans?: readonly PlanNode[];
  readonly [name: string]: unknown;
}

export interface Plan {
  readonly Plan: PlanNode;
  readonly "Planning Time"?: number;
  readonly "Execution Time"?: number;
}

const CONDITIONS = [
  "Index Cond",
  "Recheck Cond",
  "Hash Cond",
  "Merge Cond",
  "Join Filter",
  "Filter",
  "Sort Key",
  "Group Key",
];

/** Undefined where `text` is no plan. */
export function parsePlan(text: string): Plan | undefined {
  try {
    const parsed = JSON.parse(text) as unknown;
    const [plan] = Array.isArray(parsed) ? (parsed as Plan[]) : [];
    return plan?.Plan === undefined ? undefined : plan;
  } catch {
    return undefined;
  }
}

export function PlanTree({ plan }: { readonly plan: Plan }) {
  const whole = weightOf(plan.Plan) || 1;
  return (
    <div className="plan">
      <p className="muted">
        {plan["Planning Time"] !== undefined && `Planned in ${msText(plan["Planning Time"])}. `}
        {plan["Execution Time"] !== undefined && `Run in ${msText(plan["Execution Time"])}.`}
      </p>
      <ul>
        <PlanStep node={plan.Plan} whole={whole} />
      </ul>
    </div>
  );
}

function PlanStep({ node, whole }: { readonly node: PlanNode; readonly whole: number }) {
  const children = node.Plans ?? [];
  const own = Math.max(0, weightOf(node) - children.reduce((sum, one) => sum + weightOf(one), 0));
  const share = Math.min(1, own / whole);
  const of = node["Index Name"] ?? node["Relation Name"];
  return (
    <li>
      <div className={share > 0.4 ? "plan-step heavy" : "plan-step"}>
        <b>{node["Node Type"]}</b>
        {of !== undefined && (
          <span>
            on <bdi>{of}</bdi>
          </span>
        )}
        <meter value={share} title={`${Math.round(share * 100)} % of the whole by itself`} />
        <small>{factsOf(node).join(" · ")}</small>
        {CONDITIONS.filter((name) => node[name] !== undefined).map((name) => (
          <code key={name}>
            {name}: {`${node[name]}`}
          </code>
        ))}
      </div>
      {children.length > 0 && (
        <ul>
          {children.map((child, i) => (
            <PlanStep key={i} node={child} whole={whole} />
          ))}
        </ul>
      )}
    </li>
  );
}

/** Its time over all loops where it was run, else its cost; children are in it. */
function weightOf(node: PlanNode): number {
  const time = node["Actual Total Time"];
  return time === undefined ? node["Total Cost"] : time * (node["Actual Loops"] ?? 1);
}

function factsOf(node: PlanNode): string[] {
  const rows = node["Actual Rows"];
  const time = node["Actual Total Time"];
  const read = node["Shared Read Blocks"];
  return [
    rows === undefined
      ? `about ${node["Plan Rows"]} rows`
      : `${rows * (node["Actual Loops"] ?? 1)} rows (${node["Plan Rows"]} expected)`,
    ...(time === undefined
      ? [`cost ${node["Total Cost"]}`]
      : [msText(time * (node["Actual Loops"] ?? 1))]),
    ...(read ? [`${read} blocks read`] : []),
  ];
}

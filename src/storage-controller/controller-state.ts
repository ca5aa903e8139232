// What the storage controller knows and keeps: nodes, and who holds which timeline; behind an interface.

/** A pageserver or a safekeeper. */
export interface StorageNode {
  readonly id: number;
  /** `host:port`, as `listenHttpAddr`. */
  readonly listenPgAddr: string;
  readonly listenHttpAddr: string;
}

/** Ids of the safekeepers that hold a timeline. */
export interface MembershipRecord {
  /** Each is made once; see safekeeper-protocol/membership-change.ts. */
  readonly generation: number;
  readonly members: readonly number[];
  /** While a change is under way. */
  readonly newMembers?: readonly number[] | undefined;
  /** No members any more, but they have not yet been told to let go of their copy. */
  readonly excluding?: readonly number[] | undefined;
}

export interface ControllerState {
  readonly pageservers: readonly StorageNode[];
  readonly safekeepers: readonly StorageNode[];
  /** Tenant id to timeline id; none for timelines that are on all safekeepers since their creation. */
  readonly memberships: ReadonlyMap<string, ReadonlyMap<string, MembershipRecord>>;
}

/** Where the state is kept. Other processes may work on the same one. */
export interface ControllerStore {
  /** As it is now. */
  read(): ControllerState;
  /** All or nothing, durable when it resolves; `undefined` removes the record. */
  setMembership(
    tenantId: string,
    timelineId: string,
    record: MembershipRecord | undefined,
  ): Promise<void>;
  /** Runs `body` while no other process does so with the same name. */
  exclusively<T>(name: string, body: () => Promise<T>): Promise<T>;
}

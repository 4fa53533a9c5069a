import type { BodyOf } from './events.js';
export * from './events.js';

/** Which members of an event have its body: as in the URL's `view`. */
export type View = 'args' | 'data' | 'both';

/** A body with the names of its members in lower case and with `_` instead of `-`, at every depth; without `null`. */
export type Normalized<T> = T extends null ? never
  : T extends readonly (infer One)[] ? Normalized<One>[]
  : T extends object ? { [Name in keyof T as Name extends string ? NormalizedName<Name> : Name]: Normalized<T[Name]> }
  : T;
type NormalizedName<Name extends string> = Name extends `${infer First}-${infer Rest}`
  ? `${Lowercase<First>}_${NormalizedName<Rest>}` : Lowercase<Name>;

/** An event of a binding. */
export type EventOf<Binding extends string = string, V extends View = 'args'> = Binding extends unknown
  ? EventFrame<Binding>
    & (V extends 'data' ? unknown : { args: BodyOf<Binding> })
    & (V extends 'args' ? unknown : { data: Normalized<BodyOf<Binding>> })
  : never;

export interface EventFrame<Binding extends string = string> {
  action: 'event';
  /** Its position in the history, for `since`. */
  cursor?: string;
  request_id?: string | number;
  /** It tells what lives, and was published before. */
  state?: true;
  /** The binding as it was subscribed. */
  subscribed_key: Binding;
  subscription_key: string;
  routing_key: string;
  /** The body's `Event-Name`. */
  name: string;
}

/** Events of these bindings may be missing: read the current state from KAZOO's API. */
export interface Gap { account: string | null; bindings: string[]; reason: string }
/** With `state`: what lives now is about to come, so forget what you knew of it (`complete` is false), or it has come. */
export interface Present { account: string | null; bindings: string[]; complete: boolean; keptSince?: number }
/** A subscription has ended, because it is no longer granted, or was refused when it was resumed. */
export interface Revoked { account: string | null; binding: string; reason: string }

/** What a loop over `watch` gets. */
export type Message<Binding extends string = string, V extends View = 'args'> = EventOf<Binding, V>
  | ({ action: 'gap' } & Gap) | ({ action: 'present' } & Present) | ({ action: 'revoked' | 'refused' } & Revoked);

/** An async iterator, whose `return` (leaving the loop) unsubscribes what nobody else has subscribed. */
export interface Watch<Binding extends string = string, V extends View = 'args'>
  extends AsyncIterableIterator<Message<Binding, V>> {
  /** The reply's `data`, once the edge has confirmed the subscription. */
  readonly subscribed: Promise<Subscribed>;
  return(value?: unknown): Promise<IteratorResult<Message<Binding, V>>>;
}

/** The `data` of a reply to `subscribe`. */
export interface Subscribed {
  subscribed: string[];
  subscriptions?: string[];
  cursor?: string;
  recovered?: boolean;
  reason?: string;
  state?: boolean;
  state_reason?: string;
}

/** An error of the edge, with its reply. */
export interface ReplyError extends Error { reply?: Reply; account?: string | null; binding?: string }
export interface Reply { action: 'reply'; request_id: string | number; status: 'success' | 'error'; data: Record<string, unknown> }

export type State = 'connecting' | 'open' | 'waiting' | 'ended';
/** `wait`: ms until the next attempt. */
export interface StateDetail { code?: number; reason?: string; wait?: number }

export interface Subscription { account: string | null; binding: string; state: 'waiting' | 'asked' | 'active' | 'refused' }

export interface Options<V extends View = 'args'> {
  /** A token, or a function: called for each connection, and before the token ends. */
  token: string | (() => string | Promise<string>);
  onevent?(event: EventOf<string, V>, text: string): void;
  onstate?(state: State, detail: StateDetail): void;
  ongap?(gap: Gap): void;
  onpresent?(present: Present): void;
  onrevoked?(revoked: Revoked): void;
  /** An error that no promise reports. */
  onerror?(error: ReplyError): void;
  onreply?(reply: Reply, request: { action?: string; data?: unknown; sent?: number }, text: string): void;
  /** The session's name in listings. */
  name?: string;
  /** The WebSocket class to use. */
  WebSocket?: new (url: string) => unknown;
  /** ms without a frame after which it sends a ping: 30000. */
  pingInterval?: number;
  /** ms without a reply after which it closes the connection: 15000. */
  timeout?: number;
}

export interface SubscribeOptions {
  /** A cursor, or a time back such as `-5m`: past events after it come first. */
  since?: string | null;
  /** The last event of each living thing comes first. */
  state?: boolean;
}

/** `V` is the `view` of the URL: `new BlackholeClient<'data'>('wss://events.example.com/?view=data', …)`. */
export class BlackholeClient<V extends View = 'args'> {
  constructor(url: string, options: Options<V>);
  readonly state: State;
  readonly subscriptions: Subscription[];
  subscribe(account: string | null, bindings: string | readonly string[], options?: SubscribeOptions): Promise<Subscribed>;
  watch<const Binding extends string>(
    account: string | null, bindings: Binding | readonly Binding[], options?: SubscribeOptions & { limit?: number },
  ): Watch<Binding, V>;
  unsubscribe(account?: string | null, bindings?: string | readonly string[]): Promise<Record<string, unknown>>;
  request(action: string, data?: unknown): Promise<any>;
  retry(): void;
  close(): void;
}

/** What a generator and the player of its cases have in common: FUSE requests, rings, and messages are each a kind. */
import type { Next } from "./skeletons.ts";
import type { Target } from "./target.ts";

/** An input: steps that can be left out one by one, and what holds for all of them. Plain data, for the corpus. */
export interface Case<Step = unknown> {
  /** What was wrong with it, for who reads the corpus. */
  why?: string;
  /** Of the setups in target.ts; the first where it is left out. */
  setup?: string;
  options?: Record<string, number | string | boolean>;
  steps: Step[];
}

/** Counts of what was done, for who watches. */
export type Counts = Record<string, number>;

export interface Kind<Step = unknown> {
  readonly name: string;
  generate(next: Next): Case<Step>;
  /** A step that is about the same, for shrinking and for variety; undefined where it has none simpler. */
  simpler(step: Step): Step[];
  /** Begins to play cases on a daemon: one after the other, until `end`. */
  begin(target: Target, counts: Counts): Player<Step>;
}

export interface Player<Step = unknown> {
  /** Plays one. Throws where the daemon does what it must not. */
  play(one: Case<Step>): void;
  end(): void;
}

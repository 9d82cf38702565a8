/** Names at whose look-up faulty_main.ts throws: in the handler, outside of it on a loop or a helper, at the next completion. */
export const FAULTS = {
  handler: "fault-handler",
  loop: "fault-loop",
  helper: "fault-helper",
  later: "fault-later",
} as const;

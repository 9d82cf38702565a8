/**
 * The front end broke the protocol, or the device is in no state to go on: the connection is closed. The message
 * names what was asked.
 */
export class ProtocolError extends Error {
  override name = "ProtocolError";
}

/**
 * A request that was understood and cannot be granted. A front end that asked for an acknowledgement (NEED_REPLY)
 * gets a negative one and may go on; any other is disconnected, because it would take silence for success.
 */
export class Refused extends Error {
  override name = "Refused";
}

/** What an unknown thrown value says. */
export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

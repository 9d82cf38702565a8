/** The version: packaging/ puts it in place; from source it is "dev". */
declare const globalThis: { RINGFSD_VERSION?: string };

export function version(): string {
  return globalThis.RINGFSD_VERSION ?? "dev";
}

/** Why there can be no namespaces here, or "". */
export function withoutNamespaces(): string {
  if (Deno.uid() !== 0) return "needs root";
  const made = new Deno.Command("unshare", { args: ["--mount", "--net", "true"], stderr: "null" }).outputSync();
  return made.success ? "" : "needs CAP_SYS_ADMIN";
}

/** End to end in User-Mode Linux, which is small and quick and does everything in one thread. */
import { declareSuite } from "../guest/suite.ts";

await declareSuite("uml", "User-Mode Linux", ["auto", "always"]);

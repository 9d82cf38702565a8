/** End to end in QEMU without hardware help (TCG): a stock distribution kernel behind virtio over PCI. */
import { declareSuite } from "../guest/suite.ts";

await declareSuite("tcg", "QEMU");

"""Makes a CUDA build of torchvision importable beside a CPU build of torch, in this environment
only.

Package indexes serve torchvision's CUDA build to everyone. Beside a CPU torch its compiled library
does not load, and `import torchvision` dies of "operator torchvision::nms does not exist". Nothing
here uses its compiled operators, only its transforms: declaring the two operators that it registers
metadata for is enough. The declaration has to be made in every process (vLLM starts its own), so it
goes into the environment as a `.pth` hook that acts at the first import of torchvision. `make
setup` runs this; it does nothing where torchvision imports as it is.
"""

import subprocess
import sys
import sysconfig
from pathlib import Path

HOOK = '''\
"""Declares torchvision's operators before its first import; written by launch/pair_torchvision.py."""
import importlib.abc
import sys


class DeclareOperators(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            library = torch.library.Library("torchvision", "FRAGMENT")
            for operator in ("nms", "qnms"):
                library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            sys.modules[__name__].library = library
        return None


sys.meta_path.insert(0, DeclareOperators())
'''


def imports() -> bool:
    """Whether torchvision imports in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False
    )
    return done.returncode == 0


def main() -> None:
    """Installs the hook where it is needed, and checks that it works."""
    if imports():
        return
    import torch

    if torch.version.cuda is not None:
        sys.exit(
            "torchvision does not import beside this CUDA torch; install the matching pair from constraints.txt."
        )
    site = Path(sysconfig.get_paths()["purelib"])
    (site / "edit_rrm_torchvision_hook.py").write_text(HOOK)
    (site / "edit_rrm_torchvision_hook.pth").write_text("import edit_rrm_torchvision_hook\n")
    if not imports():
        sys.exit("torchvision still does not import; install the versions in constraints.txt.")
    print("torchvision's CUDA build was paired with the CPU torch")


if __name__ == "__main__":
    main()

"""hatch's hook: the wheel (and an editable installation) brings the burst path of the user-space data plane
where a C compiler and libcrypto's headers are there, and does without where they are not.

With it the wheel is for this platform, and for any Python: the library is loaded with ctypes."""

import runpy
import sys
import sysconfig
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

BURST = Path("src/stockade/driver/burst")


class BurstPath(BuildHookInterface):  # type: ignore[type-arg]
    def initialize(self, version: str, build_data: dict[str, object]) -> None:
        folder = Path(self.root) / BURST
        build = runpy.run_path(str(folder / "build.py"))
        library = folder / "libstockade_burst.so"
        if not build["is_fresh"]():
            refusal = build["build"]()
            if refusal is not None:
                library.unlink(missing_ok=True)  # rather none than one of other sources
                print(f"without the burst path: {refusal}", file=sys.stderr)
                return
        if version != "editable":
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{platform}"
            includes = build_data["force_include"]
            assert isinstance(includes, dict)
            includes[str(library)] = f"stockade/driver/burst/{library.name}"

"""Which files are code. The list is pinned: a gauge's value means something only with the filter it was taken with.

Vendored and generated files are out, by path and by the marks that generators leave. All of these are the repository
owner's to choose, so what was left out is counted and reported.
"""

import re
from pathlib import PurePosixPath
from typing import Final, Literal

FILTER_VERSION: Final = 1

# fmt: off
SUFFIXES: Final = frozenset({
    ".adb", ".ads", ".asm", ".astro", ".awk", ".bash", ".bat", ".bzl", ".c", ".cc", ".cjs", ".clj", ".cljc",
    ".cljs", ".cmake", ".coffee", ".cpp", ".cs", ".css", ".cu", ".cuh", ".cxx", ".d", ".dart", ".el", ".elm",
    ".erl", ".ex", ".exs", ".f", ".f90", ".fs", ".fsx", ".gd", ".glsl", ".go", ".gradle", ".groovy", ".h", ".hcl",
    ".hh", ".hlsl", ".hpp", ".hrl", ".hs", ".htm", ".html", ".hxx", ".inl", ".java", ".jl", ".js", ".jsx", ".kt",
    ".kts", ".less", ".lisp", ".lua", ".m", ".metal", ".mjs", ".ml", ".mli", ".mm", ".move", ".mts", ".nim", ".nix",
    ".pas", ".php", ".pl", ".pm", ".proto", ".ps1", ".purs", ".py", ".pyi", ".pyx", ".r", ".rb", ".rkt", ".rs",
    ".s", ".sass", ".scala", ".scm", ".scss", ".sh", ".sol", ".sql", ".sv", ".svelte", ".swift", ".tcl",
    ".tf", ".thrift", ".ts", ".tsx", ".v", ".vb", ".vhd", ".vhdl", ".vue", ".wgsl", ".zig", ".zsh",
})
# fmt: on
NAMES: Final = frozenset({"BUILD", "CMakeLists.txt", "Dockerfile", "Gemfile", "Justfile", "Makefile", "Rakefile"})
# fmt: off
VENDORED: Final = frozenset({
    "_vendor", "bower_components", "node_modules", "Pods", "site-packages", "third-party", "third_party",
    "thirdparty", "vendor", "vendored",
})
# fmt: on
BUILT: Final = frozenset({"dist"})  # where JavaScript bundlers write
_GENERATED_NAME: Final = re.compile(
    r".*(\.min\.(js|css)|_pb2(_grpc)?\.pyi?|\.pb\.(go|cc|h)|\.g\.dart|_generated\.\w+)", re.IGNORECASE
)
_GENERATED_MARK: Final = re.compile(rb"@generated\b|\bgenerated\b.*\bdo not edit\b", re.IGNORECASE)
MARK_LINES: Final = 5  # generators write their mark near the top

Kind = Literal["code", "vendored", "generated", "other"]


def kind(path: str) -> Kind:
    """What a path says that a file is. The content may still show that it is generated."""
    pure = PurePosixPath(path)
    if pure.suffix.lower() not in SUFFIXES and pure.name not in NAMES:
        return "other"
    if VENDORED.intersection(pure.parts[:-1]):
        return "vendored"
    if BUILT.intersection(pure.parts[:-1]):
        return "generated"
    return "generated" if _GENERATED_NAME.fullmatch(pure.name) else "code"


def marked_generated(head: list[bytes]) -> bool:
    """Whether one of a file's first lines says that a program wrote it (`@generated`, `generated … DO NOT EDIT`)."""
    return any(_GENERATED_MARK.search(line) for line in head[:MARK_LINES])

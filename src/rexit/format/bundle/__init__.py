"""The file formats both sides share: `docs/format.md` in code. The only Python that parses catalogs, manifests and policies."""

from rexit.format.bundle.bundle import Bundle
from rexit.format.bundle.catalog import Catalog, Ids, Split
from rexit.format.bundle.files import FileEntry, check_writable, digest, write_file, write_json
from rexit.format.bundle.golden import Golden, GoldenSlate
from rexit.format.bundle.manifest import Manifest, Model, RerankerPrompt, TokenRequests
from rexit.format.bundle.policy import ExitPolicy, Policy, TopK
from rexit.format.bundle.variant import Engine, EngineSegment, OptimizationProfile, Segment, Variant, engine_folders
from rexit.format.bundle.vectors import VectorIds, Vectors
from rexit.format.bundle.writer import locked_file, new_folder, sole_writer
from rexit.format.ids import Id

__all__ = [
    "Bundle",
    "Catalog",
    "Engine",
    "EngineSegment",
    "ExitPolicy",
    "FileEntry",
    "Golden",
    "GoldenSlate",
    "Id",
    "Ids",
    "Manifest",
    "Model",
    "OptimizationProfile",
    "Policy",
    "RerankerPrompt",
    "Segment",
    "Split",
    "TokenRequests",
    "TopK",
    "Variant",
    "VectorIds",
    "Vectors",
    "check_writable",
    "digest",
    "engine_folders",
    "locked_file",
    "new_folder",
    "sole_writer",
    "write_file",
    "write_json",
]

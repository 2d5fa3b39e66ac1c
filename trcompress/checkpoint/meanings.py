"""The globals of a checkpoint's pickle that mean something to us, as functions of this package.

None of them is the global itself: an ordered dict becomes a dict, a tensor a `StoredTensor`, a date stays an
inert `Instance`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trcompress.checkpoint.inert import Global, Instance, Meaning, plain_key
from trcompress.checkpoint.limits import DamageError, shown
from trcompress.checkpoint.stored import DerivedTensor, RawStorage, StoredTensor, UnreadableTensor

STORAGE_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
    "UntypedStorage": torch.uint8,
    "QInt8Storage": torch.int8,
    "QUInt8Storage": torch.uint8,
    "QUInt4x2Storage": torch.uint8,
    "QUInt2x4Storage": torch.uint8,
    "QInt32Storage": torch.int32,
}

_BITS = ("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "quint8", "qint8", "qint32", "quint4x2", "quint2x4")
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in vars(torch).values()
    if isinstance(dtype, torch.dtype) and str(dtype).removeprefix("torch.") not in _BITS
}


def storage_dtype(kind: Any) -> torch.dtype:
    """Return the dtype that a storage class names, wherever it lived."""
    known = isinstance(kind, Global) and kind.module in ("torch", "torch.cuda", "torch.storage")
    if not known or kind.name not in STORAGE_DTYPES:
        raise DamageError(f"its pickle names a storage of unknown type {shown(kind)}")
    return STORAGE_DTYPES[kind.name]


def torch_dtype(named: Any) -> torch.dtype | None:
    """Return the dtype that a global names, from a closed table: nothing is looked up on torch by a file's word."""
    return DTYPES.get(named.name) if isinstance(named, Global) and named.module == "torch" else None


def _tensor(args: tuple[Any, ...], dtype: torch.dtype | None = None, metadata: Any = None) -> Any:
    storage, offset, shape, stride = args[:4]
    if isinstance(storage, UnreadableTensor):
        return storage
    if not isinstance(storage, RawStorage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
        raise DamageError("its pickle rebuilds a tensor from something that is no storage")
    stored = StoredTensor(storage, dtype or storage.dtype, shape, stride, offset)
    return _seen_through(stored, metadata) if metadata else stored


def _seen_through(stored: StoredTensor, metadata: Any) -> DerivedTensor | UnreadableTensor:
    """A conjugate or negative view: the values that it shows, not those that are stored."""
    if not isinstance(metadata, dict) or not set(metadata) <= {"conj", "neg"} or stored.expanded:
        return UnreadableTensor("a view of an unknown kind")

    def compute() -> Tensor:
        values = stored.load()
        values = values.conj().resolve_conj() if metadata.get("conj") else values
        return -values if metadata.get("neg") else values

    return DerivedTensor(stored.dtype, stored.shape, compute)


def _tensor_v2(args: tuple[Any, ...]) -> Any:
    return _tensor(args, metadata=args[6] if len(args) > 6 else None)


def _tensor_v3(args: tuple[Any, ...]) -> Any:
    named = args[6]
    dtype = torch_dtype(named)
    if dtype is None:
        raise DamageError(f"its pickle names an unknown dtype {shown(named)!r}")
    return _tensor(args, dtype, args[7] if len(args) > 7 else None)


def _tensor_of_type(args: tuple[Any, ...]) -> Any:
    """`_rebuild_from_type_v2(function, type, args, state)`: a tensor with attributes, or of a subclass."""
    function, _, inner = args[:3]
    if function in _TENSORS and isinstance(inner, tuple):
        return _TENSORS[function](inner)
    return UnreadableTensor("a tensor subclass")


def _first(args: tuple[Any, ...]) -> Any:
    return args[0]


def _mapping(args: tuple[Any, ...]) -> dict[Any, Any]:
    """OrderedDict(), OrderedDict(pairs), Counter(mapping), defaultdict(factory, mapping)."""
    source = next((value for value in args if isinstance(value, dict | list | tuple)), {})
    pairs = source.items() if isinstance(source, dict) else source
    return {plain_key(key): value for key, value in (tuple(pair) for pair in pairs)}


def _sequence(args: tuple[Any, ...]) -> list[Any]:
    """set(list), frozenset(list), deque(list): their elements in order, never hashed."""
    return list(args[0]) if args and isinstance(args[0], list | tuple) else []


def _unreadable(reason: str) -> Meaning:
    return lambda args: UnreadableTensor(reason)


def _inert(origin: Global) -> Meaning:
    return lambda args: Instance(origin, args)


_TENSORS: dict[Any, Meaning] = {
    Global("torch._utils", name): meaning
    for name, meaning in {
        "_rebuild_tensor": _tensor,
        "_rebuild_tensor_v2": _tensor_v2,
        "_rebuild_tensor_v3": _tensor_v3,
        "_rebuild_parameter": _first,
        "_rebuild_parameter_with_state": _first,
        "_rebuild_device_tensor_from_cpu_tensor": _first,
        "_rebuild_qtensor": _unreadable("a quantized tensor"),
        "_rebuild_sparse_tensor": _unreadable("a sparse tensor"),
        "_rebuild_sparse_csr_tensor": _unreadable("a sparse tensor"),
        "_rebuild_nested_tensor": _unreadable("a nested tensor"),
        "_rebuild_meta_tensor_no_storage": _unreadable("a tensor without data, on the meta device"),
        "_rebuild_wrapper_subclass": _unreadable("a tensor subclass"),
        "_rebuild_device_tensor_from_numpy": _unreadable("a tensor of another device, kept as a NumPy array"),
        "_rebuild_xla_tensor": _unreadable("a tensor of another device, kept as a NumPy array"),
    }.items()
}

_CONTAINERS: dict[Global, Meaning] = {
    Global(module, name): meaning
    for meaning, names in {
        _mapping: (
            ("collections", "OrderedDict"),
            ("collections", "defaultdict"),
            ("collections", "Counter"),
            ("builtins", "dict"),
        ),
        _sequence: (
            ("collections", "deque"),
            ("builtins", "set"),
            ("builtins", "frozenset"),
            ("builtins", "list"),
        ),
        _first: (
            ("torch", "Size"),
            ("_codecs", "encode"),
            ("torch.jit._pickle", "build_intlist"),
            ("torch.jit._pickle", "build_tensorlist"),
            ("torch.jit._pickle", "build_doublelist"),
            ("torch.jit._pickle", "build_boollist"),
            ("torch.jit._pickle", "restore_type_tag"),
        ),
    }.items()
    for module, name in names
}

_INERT = (
    ("argparse", "Namespace"),
    ("builtins", "bytearray"),
    ("builtins", "bytes"),
    ("builtins", "complex"),
    ("builtins", "range"),
    ("builtins", "slice"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("functools", "partial"),
    ("logging", "getLogger"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy.random._pickle", "__randomstate_ctor"),
    ("numpy.random._pickle", "__generator_ctor"),
    ("numpy.random._pickle", "__bit_generator_ctor"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "PureWindowsPath"),
    ("pathlib", "WindowsPath"),
    ("re", "_compile"),
    ("torch", "device"),
    ("torch._C", "Generator"),
    ("torch.nn.backends.thnn", "_get_thnn_function_backend"),  # in every module saved before PyTorch 1.5
    ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
    ("torch.serialization", "_get_layout"),
    ("types", "GenericAlias"),
    ("types", "SimpleNamespace"),
)

MEANINGS: dict[Global, Meaning] = {
    **{Global(*name): _inert(Global(*name)) for name in _INERT},
    **_CONTAINERS,
    **_TENSORS,
    Global("torch._tensor", "_rebuild_from_type_v2"): _tensor_of_type,
    Global("torch", "ScriptObject"): _unreadable("the packed weights of a quantized layer"),
    Global("torch.nn.parameter", "UninitializedParameter"): _unreadable("an uninitialized parameter"),
    Global("torch.nn.parameter", "UninitializedBuffer"): _unreadable("an uninitialized buffer"),
}

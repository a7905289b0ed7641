"""Stand-in for sgl_kernel, which is published for CUDA only.

Every name imports and raises when it is called; SGLang's native torch paths do not
call them. It also makes torch's pinned memory and CUDA events harmless on a machine
without CUDA: SGLang's prefill sends its KV cache through both.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
import types
from typing import Any

import torch


class _Missing:
    """A kernel that is not there."""

    def __init__(self, name: str) -> None:
        self.__name__ = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"sgl_kernel.{self.__name__} has no CPU build here")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(f"{self.__name__}.{name}")


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Missing(name)


class _Module(types.ModuleType):
    __path__: list[str] = []  # noqa: RUF012 - the import system's own attribute

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Missing(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers the import of any submodule."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if not name.startswith("sgl_kernel."):
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        return None


def _unpinned(make: Any) -> Any:
    """Plain host memory serves as well where there is no accelerator."""

    @functools.wraps(make)
    def call(*args: Any, **kwargs: Any) -> Any:
        kwargs.pop("pin_memory", None)
        return make(*args, **kwargs)

    return call


def _same(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return tensor


class _NoEvent:
    """An event of a device that is not there: host work is done when it returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any, **kwargs: Any) -> None:
        pass

    def wait(self, *args: Any, **kwargs: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def query(self) -> bool:
        return True

    def elapsed_time(self, other: Any) -> float:
        return 0.0


class _NoStream(_NoEvent):
    cuda_stream = 0

    def wait_event(self, *args: Any) -> None:
        pass

    def wait_stream(self, *args: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _NoEvent()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *args: object) -> bool:
        return False


sys.meta_path.append(_Finder())
if not torch.cuda.is_available():
    for _name in (
        *("empty", "zeros", "ones", "full", "tensor", "arange"),
        *("empty_like", "zeros_like", "randn", "rand"),
    ):
        setattr(torch, _name, _unpinned(getattr(torch, _name)))
    torch.Tensor.pin_memory = _same
    torch.cuda.Event = _NoEvent
    torch.cuda.Stream = _NoStream
    torch.cuda.current_stream = _NoStream

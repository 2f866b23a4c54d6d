"""The one interface of all detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image

if TYPE_CHECKING:
    from audit.plan import Request
    from audit.study import Study

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Item:
    """One image to look at: its request's id, its file's hash, the prompt and the English text.

    `asked` is the request itself, for detectors that go back to the model.
    """

    request: str
    image_sha256: str
    image: Image.Image
    prompt: str
    text: str
    asked: Request | None = None


class Batch(Sequence[Item]):
    """Items that are scored together; what one detector computed, another can reuse."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = list(items)
        self._shared: dict[str, Any] = {}

    def __getitem__(self, index: Any) -> Any:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    @property
    def images(self) -> list[Image.Image]:
        """The decoded images, RGB."""
        return [item.image for item in self._items]

    def share(self, key: str, compute: Callable[[], Shared]) -> Shared:
        """`compute()` once per batch and key: a CLIP embedding serves every head that reads it."""
        if key not in self._shared:
            self._shared[key] = compute()
        result: Shared = self._shared[key]
        return result


class Detector(Protocol):
    """An instrument. It stores raw scores; thresholds belong to the analysis.

    It is made as ``Detector(study)``, once, when it is needed; the constructor loads weights.
    """

    name: str
    """The entry point's name and the folder of its scores."""

    def describe(self) -> Mapping[str, Any]:
        """Version, the weights' SHA-256, settings and known error: what a reader must know.

        Scores are computed anew when this changes.
        """

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """Columns of ``len(batch)`` raw values each; ``None`` where a value does not exist."""


def sees_images(detector: type[Any]) -> bool:
    """Whether a detector looks at images; one of texts alone says ``sees_images = False``."""
    return bool(getattr(detector, "sees_images", True))


def unavailable(detector: type[Any], study: Study) -> str | None:
    """Why a detector cannot serve this model, or ``None``: its optional ``unavailable``."""
    check = getattr(detector, "unavailable", None)
    return check(study) if check else None

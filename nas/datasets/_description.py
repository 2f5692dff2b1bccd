"""What a data set is made of, as plain data and as the one line with which a job begins."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas.datasets import DataSet

MOST_REASONS = 6


def described(data: "DataSet") -> dict[str, Any]:
    """name, digest, sizes (images by split), num_classes, and as far as the data set says: classes (their
    names by label), preprocessing (how images become inputs) and its `facts`.

    facts: smallest and largest ([class, images]), left_out (files by reason), notes (sentences).
    """
    told = {"name": data.name, "digest": data.digest, "sizes": data.sizes, "num_classes": data.num_classes}
    classes, preprocessing = getattr(data, "classes", None), getattr(data, "preprocessing", None)
    return {
        **told,
        **({} if classes is None else {"classes": list(classes)}),
        **({} if preprocessing is None else {"preprocessing": preprocessing.to_dict()}),
        **getattr(data, "facts", {}),
    }


def line(told: dict[str, Any]) -> str:
    """`described` in one line; also of jobs that knew less."""
    sizes = told.get("sizes", {})
    images = ", ".join(f"{sizes[name]:,} {name}" for name in ("train", "search", "report") if name in sizes)
    parts = [f"{told['num_classes']} classes"] if "num_classes" in told else []
    parts += [f"images: {images}"] if images else []
    if "smallest" in told:
        (small, least), (large, most) = told["smallest"], told["largest"]
        unequal = f"from {least:,} ({small}) to {most:,} ({large}) a class"
        parts.append(unequal if least < most else f"{most:,} a class")
    if left_out := told.get("left_out"):
        reasons = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
        some = ", ".join(f"{count:,} {reason}" for reason, count in reasons[:MOST_REASONS])
        parts.append(f"left out: {some}{', ...' if len(reasons) > MOST_REASONS else ''}")
    return f"Data {told['name']}: {'; '.join(parts)}."

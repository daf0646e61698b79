"""Pictures and sentences mapped to each other by one invertible network."""

from invcap.captioning import Caption, InvertibleCaptioner

__all__ = ["Caption", "InvertibleCaptioner"]

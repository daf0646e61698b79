"""Image encoders by their names in options: loaded, or trained on the images of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import Accelerator

from invcap.data.encode import EncodedImages, encode_images, training_pixels
from invcap.data.encode_further import encode_further
from invcap.data.example import Examples
from invcap.data.settings import DataSettings
from invcap.data.shards import ShardRows
from invcap.encoders.autoencoder import AutoencoderSettings, train_autoencoder
from invcap.encoders.feature_autoencoder import FeatureSettings
from invcap.encoders.features import FeatureImages
from invcap.encoders.images import (
    Autoencoder,
    AutoencoderImages,
    conv_channels,
    load_autoencoder,
    save_autoencoder,
)
from invcap.encoders.interface import ENCODER_FILE, ImageEncoder
from invcap.encoders.load import load_image_encoder
from invcap.encoders.make_features import (
    CHECKPOINT,
    TRAINING_IMAGES,
    make_feature_images,
    prepare_images,
)
from invcap.encoders.sentences import MINILM
from invcap.encoders.unclip import load_unclip
from invcap.hashing import digest

STORAGE = ("float32", "float16")
CONV = "conv"
FEATURES = "features"
UNCLIP = "unclip"
SIZES = {FEATURES: (224, 224), UNCLIP: (224, 224)}


@dataclass(frozen=True)
class EncoderSettings:
    """The frozen encoders.

    Attributes:
        image_encoder: `conv` to train a small autoencoder on the training images;
            `features[:NAME]` for features of a frozen backbone (see
            `invcap.encoders.backbones.load_backbone`) and a decoder trained to draw them;
            `unclip:NAME` for a Stable unCLIP (see `invcap.encoders.unclip`); or the folder of a
            saved image encoder, or the folder or hub name of a diffusers autoencoder.
        sentence_encoder: sentence-transformers folder or name; "minilm" is installed.
        training: how the small autoencoder is trained.
        features: how latents of `features` are made.
        storage: dtype of latents and embeddings on disk, `float32` or `float16`.
    """

    image_encoder: str = CONV
    sentence_encoder: str = MINILM
    training: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    storage: str = "float32"

    def __post_init__(self) -> None:
        if self.storage not in STORAGE:
            raise ValueError(f"storage must be one of {', '.join(STORAGE)}, got {self.storage!r}")


def default_size(image_encoder: str) -> tuple[int, int]:
    """(height, width) of images that an image encoder, by its name in options, works best with."""
    return SIZES.get(image_encoder.partition(":")[0], (32, 32))


def make_image_encoder(
    source: Examples,
    data: DataSettings,
    features: int,
    settings: EncoderSettings,
    cache: Path,
    accelerator: Accelerator,
) -> ImageEncoder:
    """Loads the image encoder that the settings name, or trains it on training images.

    Args:
        features: about how many numbers the latents of `conv` have.

    Raises:
        ValueError: there is no such encoder, or it cannot be used for images of this size.
    """
    name = settings.image_encoder
    kind, _, of = name.partition(":")
    if kind in SIZES and data.size[0] != data.size[1]:
        raise ValueError(
            f"size must be square for the image encoder {kind}, such as 224x224, "
            f"got {data.size[0]}x{data.size[1]}"
        )
    encoder: ImageEncoder
    if name == CONV:
        channels = conv_channels(data.size, features)
        pixels = training_pixels(source, data, TRAINING_IMAGES, cache, accelerator)
        autoencoder = cached_autoencoder(
            pixels, data.size, channels, settings.training, cache, accelerator
        )
        encoder = AutoencoderImages(autoencoder, data.size)
    elif kind == UNCLIP:
        encoder = load_unclip(of, data.size)
    elif kind == FEATURES:
        encoder = make_feature_images(source, data, of, settings.features, cache, accelerator)
    elif (Path(name) / ENCODER_FILE).exists():
        encoder = load_image_encoder(Path(name))
        if encoder.size != data.size:
            raise ValueError(
                f"size must be {encoder.size[0]}x{encoder.size[1]} for the image encoder {name}, "
                f"got {data.size[0]}x{data.size[1]}"
            )
    else:
        encoder = AutoencoderImages(load_autoencoder(name), data.size)
    return encoder.to(accelerator.device)


def cached_autoencoder(
    pixels: ShardRows,
    size: tuple[int, int],
    latent_channels: int,
    settings: AutoencoderSettings,
    cache: Path,
    accelerator: Accelerator,
) -> Autoencoder:
    """Trains a `ConvAutoencoder` on images, or finds the one trained on them before."""
    identity = {**asdict(settings), "channels": latent_channels, "pixels": pixels.identity}
    folder = cache / f"autoencoder-{digest(str(identity))}"
    if not (folder / "config.json").exists():
        path = folder / CHECKPOINT
        trained = train_autoencoder(
            pixels, size, latent_channels, settings, path, identity, accelerator
        )
        if accelerator.is_main_process:
            save_autoencoder(trained, folder)
            path.unlink()
    accelerator.wait_for_everyone()
    return load_autoencoder(str(folder))


def encode(
    source: Examples,
    data: DataSettings,
    encoder: ImageEncoder,
    cache: Path,
    accelerator: Accelerator,
    storage: str = "float32",
) -> EncodedImages:
    """The latents of all images, on disk; those of an earlier run are reused."""
    if isinstance(encoder, FeatureImages):
        prepared = prepare_images(source, data, encoder.preparation, cache, accelerator)
        return encode_further(
            prepared,
            lambda rows: encoder.encode_prepared(rows).cpu().numpy(),
            encoder.features,
            encoder.fingerprint,
            cache,
            accelerator,
            storage,
        )
    return encode_images(
        source,
        data,
        lambda pixels: encoder.encode(pixels).cpu().numpy(),
        encoder.features,
        encoder.fingerprint,
        cache,
        accelerator,
        storage,
    )

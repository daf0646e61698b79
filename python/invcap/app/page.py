"""Lays out the page and serves it."""

from __future__ import annotations

import ipaddress
import logging
import os
import signal
from pathlib import Path
from tempfile import TemporaryDirectory

import gradio as gr

from invcap.app.caption import caption_tab
from invcap.app.draw import draw_tab
from invcap.app.fields import MOST_BYTES
from invcap.app.invert import invert_tab
from invcap.app.layer import layer_tab
from invcap.app.models import Models, load_models, write_examples
from invcap.app.score import score_tab

FOLDER = Path(__file__).parent
# Gradio's own colours have too little contrast for small or bold text.
THEME = gr.themes.Default(primary_hue="blue", neutral_hue="slate").set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_300",
    block_info_text_color="*neutral_600",
    block_info_text_color_dark="*neutral_300",
    button_primary_background_fill="*primary_600",
    link_text_color_dark="*secondary_300",
    link_text_color_visited_dark="*secondary_300",
)
CACHE_SECONDS = (300, 3600)  # how often files are looked at, and how old they may become
NO_CAPTIONER = (
    "This needs a captioner. Train one with `make demo` or `invcap train --data DATA --output DIR`,"
    " and start the page with `invcap app --captioner DIR`."
)
logger = logging.getLogger(__name__)


def make_page(models: Models) -> gr.Blocks:
    """The page of some models."""
    examples = write_examples(models)
    captioner = models.captioner
    with gr.Blocks(title="invcap", analytics_enabled=False, delete_cache=CACHE_SECONDS) as page:
        gr.Markdown("# invcap\nPictures and sentences, mapped to each other.")
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Caption"):
                caption_tab(models, captioner, examples) if captioner else gr.Markdown(NO_CAPTIONER)
            with gr.Tab("Draw"):
                draw_tab(models, captioner) if captioner else gr.Markdown(NO_CAPTIONER)
            with gr.Tab("Score"):
                score_tab(models, examples)
            with gr.Tab("Invert"):
                invert_tab(models, examples)
            with gr.Tab("Layer"):
                layer_tab(models)
    return page


def serve(
    captioner: Path | None = None,
    model: str | None = None,
    device: str = "auto",
    host: str = "127.0.0.1",
    port: int = 7860,
    auth: tuple[str, str] | None = None,
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        captioner, model, device: see `load_models`.
        host, port: address to serve at; 127.0.0.1 is only for this machine.
        auth: user name and password that the page asks for.

    Raises:
        ValueError: something cannot be loaded.
        OSError: the port is taken.
    """
    if auth is None and not is_loopback(host):
        logger.warning("%s: anyone who reaches this machine can use the page; see --auth", host)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="invcap-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "cache")
        models = load_models(Path(folder), captioner, model, device)
        try:
            page = make_page(models)
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                auth=auth,
                theme=THEME,
                css_paths=FOLDER / "style.css",
                head_paths=FOLDER / "names.html",
                max_file_size=MOST_BYTES,
                allowed_paths=[],
                share=False,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                footer_links=["api", "settings"],
                show_error=True,
                quiet=True,
                prevent_thread_lock=True,
            )
            logger.info("serving %s; Ctrl-C ends it", address)
            page.block_thread()
        finally:
            models.worker.close()


def is_loopback(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

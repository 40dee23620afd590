"""One quiet theme: warm greys, petrol as the only accent, a font that ships with Gradio. Nothing comes from a CDN."""

import gradio as gr
from gradio.themes import Base, Color, LocalFont, sizes

PETROL = Color(
    name="petrol",
    c50="#eef7f6",
    c100="#d6ecea",
    c200="#aed8d5",
    c300="#7dbdbb",
    c400="#459b9b",
    c500="#1b7b7d",
    c600="#146668",
    c700="#125355",
    c800="#124345",
    c900="#10383a",
    c950="#062123",
)
STONE = Color(
    name="stone",
    c50="#faf9f7",
    c100="#f3f2ef",
    c200="#e5e3de",
    c300="#d2cfc8",
    c400="#a5a29a",
    c500="#706d66",
    c600="#57544e",
    c700="#3f3d39",
    c800="#262522",
    c900="#1c1b19",
    c950="#141312",
)

# The font that ships has no Chinese: these are what macOS and iOS, Windows, and Linux and Android have.
CHINESE = ("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC")


def theme() -> gr.themes.Base:
    """The theme for ``launch``."""
    base = Base(
        primary_hue=PETROL,
        secondary_hue=PETROL,
        neutral_hue=STONE,
        radius_size=sizes.radius_lg,
        spacing_size=sizes.spacing_md,
        text_size=sizes.text_md,
        font=(LocalFont("IBM Plex Sans", (400, 700)), "ui-sans-serif", "system-ui", *CHINESE, "sans-serif"),
        font_mono=(LocalFont("IBM Plex Mono", (400, 700)), "ui-monospace", "Consolas", "monospace"),
    )
    return base.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="#eae7e0",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="#a9a59b",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#34322e",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="#c6c2b8",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="#c6c2b8",
        block_title_text_size="*text_sm",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        input_border_color_focus="*primary_500",
        input_border_color_focus_dark="*primary_400",
        link_text_color="*primary_600",
        link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_700",
        link_text_color_hover_dark="*primary_200",
        button_large_padding="*spacing_xl",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_border_color="*primary_600",
        button_primary_border_color_dark="*primary_500",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#4a4741",
        button_cancel_background_fill="#ffffff",
        button_cancel_background_fill_hover="#fbeeec",
        button_cancel_background_fill_dark="*neutral_800",
        button_cancel_background_fill_hover_dark="#3a2320",
        button_cancel_text_color="#a3332a",
        button_cancel_text_color_dark="#f1a49c",
        button_cancel_border_color="#d9a19b",
        button_cancel_border_color_dark="#7a3a33",
        button_border_width="1px",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
        checkbox_border_radius="3px",  # a box: a rounder one is taken for one choice of several
        checkbox_background_color_selected="*primary_600",
        checkbox_background_color_selected_dark="*primary_500",
    )

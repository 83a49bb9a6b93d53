"""The theme: Gradio's variables, filled with the names of `assets/style.css`.

The colours live in the style sheet, once for paper and once for ink. Each variable is set for light and for dark:
Gradio declares the dark ones on another element, where our names have their dark values.
"""

from __future__ import annotations

import gradio as gr

SYSTEM_FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
MONO_FONT = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

_BOTH = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "body_text_color_subdued": "var(--mute)",
    "background_fill_primary": "var(--card)",
    "background_fill_secondary": "var(--soft)",
    "border_color_primary": "var(--line)",
    "border_color_accent": "var(--accent)",
    "color_accent_soft": "var(--soft)",
    "link_text_color": "var(--accent)",
    "link_text_color_hover": "var(--accent)",
    "link_text_color_visited": "var(--accent)",
    "link_text_color_active": "var(--accent)",
    "block_background_fill": "transparent",
    "block_border_width": "0px",
    "block_border_color": "transparent",
    "block_shadow": "none",
    "block_label_background_fill": "transparent",
    "block_label_text_color": "var(--mute)",
    "block_label_border_width": "0px",
    "block_info_text_color": "var(--mute)",
    "block_title_text_color": "var(--mute)",
    "block_title_background_fill": "transparent",
    "block_title_border_width": "0px",
    "panel_background_fill": "transparent",
    "panel_border_width": "0px",
    "input_background_fill": "var(--paper)",
    "input_background_fill_focus": "var(--paper)",
    "input_background_fill_hover": "var(--paper)",
    "input_border_color": "var(--line)",
    "input_border_color_focus": "var(--focus)",
    "input_border_color_hover": "var(--mute)",
    "input_border_width": "1px",
    "input_placeholder_color": "var(--mute)",
    "input_shadow": "none",
    "input_shadow_focus": "none",
    "checkbox_background_color": "var(--paper)",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--mute)",
    "checkbox_border_color_selected": "var(--accent)",
    "checkbox_border_color_focus": "var(--focus)",
    "checkbox_border_color_hover": "var(--accent)",
    "checkbox_label_background_fill": "var(--paper)",
    "checkbox_label_background_fill_hover": "var(--paper)",
    "checkbox_label_background_fill_selected": "var(--card)",
    "checkbox_label_border_color": "var(--line)",
    "checkbox_label_border_color_selected": "var(--accent)",
    "checkbox_label_border_color_hover": "var(--mute)",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--ink)",
    "checkbox_label_shadow": "none",
    "button_primary_background_fill": "var(--accent)",
    "button_primary_background_fill_hover": "var(--accent-strong)",
    "button_primary_border_color": "var(--accent)",
    "button_primary_border_color_hover": "var(--accent-strong)",
    "button_primary_text_color": "var(--on-accent)",
    "button_primary_shadow": "none",
    "button_secondary_background_fill": "var(--paper)",
    "button_secondary_background_fill_hover": "var(--soft)",
    "button_secondary_border_color": "var(--line)",
    "button_secondary_border_color_hover": "var(--mute)",
    "button_secondary_text_color": "var(--ink)",
    "button_secondary_shadow": "none",
    "button_cancel_background_fill": "var(--no-bg)",
    "button_cancel_background_fill_hover": "var(--no-bg)",
    "button_cancel_border_color": "var(--no)",
    "button_cancel_text_color": "var(--no)",
    "slider_color": "var(--accent)",
    "loader_color": "var(--accent)",
    "accordion_text_color": "var(--accent)",
    "code_background_fill": "var(--paper)",
    "error_background_fill": "var(--no-bg)",
    "error_border_color": "var(--no)",
    "error_text_color": "var(--no)",
}
_ONCE = {
    "checkbox_shadow": "none",
    "block_radius": "0px",
    "block_padding": "0px",
    "container_radius": "8px",
    "input_radius": "8px",
    "input_padding": "9px 12px",
    "input_text_size": "15px",
    "button_large_radius": "10px",
    "button_small_radius": "8px",
    "button_medium_radius": "8px",
    "layout_gap": "14px",
    "form_gap_width": "0px",
    "block_title_text_size": "13px",
    "block_title_text_weight": "400",
    "block_title_padding": "0px",
    "block_info_text_size": "12px",
    "checkbox_label_padding": "9px 12px",
    "checkbox_label_text_size": "14px",
    "checkbox_label_gap": "8px",
    "button_large_text_weight": "600",
    "button_large_padding": "13px 20px",
}


def theme() -> gr.themes.Base:
    """The theme of the page. System fonts only: nothing is fetched from elsewhere."""
    both = _BOTH | {f"{name}_dark": value for name, value in _BOTH.items()}
    return gr.themes.Base(font=SYSTEM_FONT, font_mono=MONO_FONT).set(**both, **_ONCE)

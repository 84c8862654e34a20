"""A figure and its controls next to each other in JupyterLab and Notebook, where the page is wide enough for both.

The figure stays an ordinary output, which a headless execution keeps. In other front ends it is above the controls.
"""

PANEL = "fedlab-panel"  # class of the controls
AREA = f".jp-OutputArea:has(> .jp-OutputArea-child .{PANEL})"
STYLE = f"""<style>
.{PANEL} {{ --jp-widgets-inline-height: 24px; --jp-widgets-margin: 1px; --jp-widgets-font-size: 12px; }}
.{PANEL} .jupyter-button {{ padding: 0 7px; width: auto; }}
.{PANEL} textarea {{ resize: vertical; white-space: pre; font-size: 11px; line-height: 20px; scrollbar-width: none; }}
@media (min-width: 1100px) {{
  {AREA} {{ display: grid; grid-template-columns: minmax(0, 860px) 336px; align-items: start; }}
  {AREA} > .jp-OutputArea-child {{ grid-column: 1; }}
  {AREA} > .jp-OutputArea-child:has(.{PANEL}) {{ grid-column: 2; grid-row: 1 / span 9; }}
  {AREA} > .jp-OutputArea-child > .jp-OutputPrompt {{ display: none; }}
  {AREA} .jp-RenderedImage img {{ width: 100%; max-width: 860px; height: auto; }}
}}
</style>"""

"""What a keyboard and a screen reader are told: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    # the first stops of the Tab key
    "access.skips": ("Skip", "跳转"),
    "access.to_controls": ("Go to the controls", "跳到操作区"),
    "access.to_result": ("Go to the plan and the result", "跳到计划和结果"),
    # Gradio's components
    "access.remove": ("Remove {name}", "移除 {name}"),
    "access.space": ("{name}: arrow keys turn it", "{name}：用方向键旋转"),
    "access.left": ("{name}: before", "{name}：之前"),
    "access.right": ("{name}: after", "{name}：之后"),
    "access.share": ("divided at {share} percent of the width", "分界线位于宽度的 {share}%"),
    "access.point": (
        "Arrow keys move a cross, with Shift farther, with Alt by one pixel; Enter chooses the point.",
        "用方向键移动十字，按住 Shift 移动更远，按住 Alt 移动一个像素；按回车键选定该点。",
    ),
    "access.cross": ("column {x}, row {y}", "第 {x} 列，第 {y} 行"),
    # what is only seen otherwise
    "access.instead": ("instead of", "代替"),
}

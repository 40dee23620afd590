"""Words of the InstantID tab: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    "consent.tick": (
        "I may use this person's picture",
        "我有权使用此人的照片",
    ),
    "consent.info": (
        "It is my own face, or the person shown has agreed. What is made is labelled as AI-generated.",
        "照片是我本人，或已得到照片中人的同意。生成的内容会标明由 AI 生成。",
    ),
}
STAGES: dict[str, tuple[str, str]] = {}

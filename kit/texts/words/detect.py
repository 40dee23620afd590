"""Words of the DAMO-YOLO tab: (English, Simplified Chinese)."""

PAGE: dict[str, tuple[str, str]] = {
    # every tab
    "action.stopping": ("Stopping…", "正在停止…"),
    "upload.picture": (
        "{name} has {size} MB; the limit of a picture is {limit} MB: scale it down, or save it as JPEG.",
        "{name} 有 {size} MB，图片上限为 {limit} MB：请缩小尺寸或另存为 JPEG。",
    ),
    "upload.video": (
        "{name} has {size} MB; the limit of a video is {limit} MB: cut it, or export it at a lower bit rate.",
        "{name} 有 {size} MB，视频上限为 {limit} MB：请剪短，或以更低码率导出。",
    ),
    "upload.weights": (
        "{name} has {size} MB; the limit of an upload is {limit} MB: run it by its path on this machine.",
        "{name} 有 {size} MB，上传上限为 {limit} MB：请在本机以路径方式运行。",
    ),
    # kinds of input
    "detect.video": ("Video", "视频"),
    "detect.camera": ("Camera", "摄像头"),
    "detect.every": ("Look at one frame in", "每几帧检测一帧"),
    "detect.empty_clip": ("No video yet", "还没有视频"),
    "detect.camera_words": (
        "It runs for {seconds} s at a time and shares the machine with everybody else's requests. "
        "It stops when you leave this tab.",
        "每次最多运行 {seconds} 秒，与其他人的请求轮流使用这台机器。离开此标签页即停止。",
    ),
    "detect.camera_start": (
        "The camera starts with the button on its own picture.",
        "请用摄像头画面上的按钮启动。",
    ),
    "detect.camera_none": ("No picture has come from the camera yet.", "尚未收到摄像头画面。"),
    "detect.camera_over": (
        "The time of this camera is up; it can be started again.",
        "本次使用时间已到，可以重新启动。",
    ),
    "detect.camera_again": ("Camera again", "重新启动摄像头"),
    "detect.camera_waits": (
        "The machine works on another request; the camera goes on in between.",
        "机器正在处理其他请求，摄像头会在间隙继续。",
    ),
    "detect.camera_rate": ("{rate} frames a second", "每秒 {rate} 帧"),
    # results
    "detect.iou": ("Boxes may overlap by (IoU)", "允许的框重叠（IoU）"),
    "detect.streams": ("Measured here: {capacity}.", "本机实测：{capacity}。"),
    "detect.cuts": ("Cut out; press one to save it", "裁切结果，点按即可保存"),
    "detect.save_crops": ("Crops (ZIP)", "全部裁切（ZIP）"),
    "detect.save_csv": ("CSV", "CSV 表格"),
    "detect.save_coco": ("COCO", "COCO 格式"),
    "detect.save_clip": ("Save video", "保存视频"),
    "detect.save_lines": ("Data (JSON lines)", "数据（JSON 行）"),
    "detect.live": ("Frame with boxes", "带检测框的画面"),
    "detect.clip_result": ("Video with boxes", "带检测框的视频"),
    "detect.part_words": (
        "This is the part that was done: {frames} frames, with their data.",
        "这是已完成的部分：共 {frames} 帧，附有数据。",
    ),
    # own weights
    "own.title": ("Own weights", "自有权重"),
    "own.file": ("Checkpoint (.pth, .safetensors, .onnx)", "权重文件（.pth、.safetensors、.onnx）"),
    "own.path": ("Or a path on this machine", "或本机上的路径"),
    "own.path_words": (
        "A file, or a folder as ModelScope lays it out.",
        "可以是一个文件，也可以是 ModelScope 结构的文件夹。",
    ),
    "own.names": ("Class names", "类别名称"),
    "own.names_words": (
        "In the order of training, separated by commas; empty for what the file says.",
        "按训练时的顺序，用逗号分隔；留空则采用文件中的名称。",
    ),
    "own.none": ("None given: the published weights run.", "未提供：使用已发布的权重。"),
    "own.found": (
        "{name} is a DAMO-YOLO {variant} with {classes} classes: {names}.",
        "{name} 是 DAMO-YOLO {variant}，共 {classes} 个类别：{names}。",
    ),
    "own.onnx": (
        "{name} is an ONNX detector with {classes} classes: {names}. onnxruntime runs it on the CPU.",
        "{name} 是 ONNX 检测器，共 {classes} 个类别：{names}。由 onnxruntime 在 CPU 上运行。",
    ),
    "own.unnamed": ("the file names none", "文件中没有名称"),
    # programs
    "api.iou": (
        "Of two boxes of one class overlapping by more than this, only the surer is given",
        "同类的两个框重叠超过此值时，只给出更可信的一个",
    ),
}
STAGES: dict[str, tuple[str, str]] = {}

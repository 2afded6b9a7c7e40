"""Segments a video with a program of `oclr export-model`, with jax, NumPy and OpenCV alone.

python launch/run_program.py oclr.zip clip.mp4 layers.npz
"""

import json
import sys
import zipfile

import cv2
import numpy as np
from jax import export

program_file, video_file, output = sys.argv[1:]
with zipfile.ZipFile(program_file) as archive:
    about = json.loads(archive.read("program.json"))
    program = export.deserialize(bytearray(archive.read("program.bin")))
_, length, height, width, _ = about["inputs"][0]["shape"]

reader, images = cv2.VideoCapture(video_file), []
while (read := reader.read())[0]:
    grey = cv2.cvtColor(read[1], cv2.COLOR_BGR2GRAY)
    images.append(cv2.resize(grey, (2 * width, 2 * height), interpolation=cv2.INTER_AREA))
dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
flow = np.zeros((len(images), height, width, 2 * len(about["gaps"])), np.float32)
for i, image in enumerate(images):
    for place, gap in enumerate(about["gaps"]):
        exists = 0 <= i + gap < len(images)  # else the flow at the opposite gap, negated
        found = dis.calc(image, images[i + gap if exists else i - gap], None)
        # Half the grid, so half the pixels.
        found = cv2.resize(found, (width, height), interpolation=cv2.INTER_AREA) / 2
        flow[i, ..., 2 * place : 2 * place + 2] = found if exists else -found

windows = -(-len(flow) // length)  # the last one is padded with its last frame
padded = np.pad(flow, [(0, windows * length - len(flow)), (0, 0), (0, 0), (0, 0)], mode="edge")
amodal, order = program.call(padded.reshape(windows, length, *flow.shape[1:]))
amodal = np.asarray(amodal).reshape(-1, height, width, amodal.shape[-1])[: len(flow)]
np.savez_compressed(output, amodal=amodal > 0.5, order=order)

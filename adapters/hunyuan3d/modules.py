"""The components as the engine calls them: each network behind one ``forward``, whatever it does in a request.

A call moves its tensors to the component's device and casts what is floating to its dtype; whatever must stay exact
travels as integers.
"""

from typing import Literal, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from torch import Tensor, nn

from adapters.hunyuan3d.grid import CELLS_PER_CHUNK, decode_points, sdf_slab
from adapters.hunyuan3d.networks import Field, TriplaneDecoder, ViewUNet, perturb
from kit.sessions import OnnxSession

DEVICE_CELLS_PER_CHUNK = 2**21
TILE_OVERLAP = 0.25


def exact(value: float) -> Tensor:
    """A number ``[1]`` as the bits of its fp32: no cast to a lower precision rounds it on the way to a device."""
    return torch.tensor([value], dtype=torch.float32).view(torch.int32)


class ViewDenoiser(nn.Module):
    """One step of the view UNet: the noised reference is written to its bank, then the sample reads it.

    ``module(sample [2,4,H,W], reference [2,4,h,w], timestep_bits [1], prompt [2,77,D], text_embeds [2,1280],
    time_ids [2,6]) -> [2,4,H,W]``; the last two for "std" only.
    """

    def __init__(self, unet: ViewUNet) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        reference: Tensor,
        timestep_bits: Tensor,
        prompt: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        timestep = timestep_bits.view(torch.float32)
        added = None
        if text_embeds is not None and time_ids is not None:
            added = {"text_embeds": text_embeds, "time_ids": time_ids}
        bank = self.unet.write(reference, timestep, prompt, added)
        return self.unet.read(sample, timestep, prompt, bank, added)


class LatentCodec(nn.Module):
    """A VAE in both directions.

    ``module(pixels [B,3,H,W], "encode") -> [B,8,H/8,W/8]``, means and log variances;
    ``module(latents [B,4,h,w], "decode") -> [B,3,8h,8w]``; ``scaled`` latents are in the range of diffusion and are
    divided by the scaling factor first. With ``tile`` above 0, sides longer than so many pixels are worked on in
    overlapping tiles, blended: less memory, and colours that may differ slightly from tile to tile.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, tensor: Tensor, direction: Literal["encode", "decode"], tile: int = 0, *, scaled: bool = False
    ) -> Tensor:
        vae, factor = self.vae, 2 ** (len(self.vae.config["block_out_channels"]) - 1)
        vae.use_tiling = tile > 0
        vae.tile_sample_min_size, vae.tile_latent_min_size = tile, tile // factor
        vae.tile_overlap_factor = TILE_OVERLAP
        if direction == "encode":
            return cast(Tensor, vae.encode(tensor).latent_dist.parameters)
        latents = tensor / vae.config["scaling_factor"] if scaled else tensor
        return cast(Tensor, vae.decode(latents, return_dict=False)[0])


class Painter(nn.Module):
    """The transformer of text to image.

    ``module(sample [3,4,h,w], timesteps [3], states [3,77,D], mask [3,77], states_t5 [3,256,E], mask_t5 [3,256]) ->
    [3,4,h,w]``, its prediction for a square picture; batches are negative, positive, perturbed.
    """

    def __init__(self, transformer: HunyuanDiT2DModel) -> None:
        super().__init__()
        perturb(transformer)
        self.transformer = transformer

    def forward(self, sample: Tensor, timesteps: Tensor, *words: Tensor) -> Tensor:
        config = self.transformer.config
        grid = tuple(side // config["patch_size"] for side in sample.shape[-2:])
        # Positions run over the 512-pixel square the model learned them on, whatever the size.
        learned = 512 // 8 // config["patch_size"]
        rotary = get_2d_rotary_pos_embed(
            config["attention_head_dim"], ((0, 0), (learned, learned)), grid, output_type="pt"
        )
        size = [side * 8 for side in sample.shape[-2:]]
        meta = torch.tensor([[*size, *size, 0, 0]] * len(sample)).to(sample)
        states, mask, states_t5, mask_t5 = words
        prediction = self.transformer(
            sample,
            timesteps,
            encoder_hidden_states=states,
            text_embedding_mask=mask,
            encoder_hidden_states_t5=states_t5,
            text_embedding_mask_t5=mask_t5,
            image_meta_size=meta,
            style=torch.zeros(len(sample), dtype=torch.long).to(sample.device),
            image_rotary_emb=tuple(table.to(sample.device) for table in rotary),
            return_dict=False,
        )[0]
        return cast(Tensor, prediction.chunk(2, dim=1)[0])


class FieldDecoder(nn.Module):
    """Distances and colours from the triplane.

    ``module(planes, points [1,P,3]) -> Field`` for points; ``module(planes, size=n, rows=(a, b), extent=e) ->
    [b-a,n,n]``, signed distances of the grid's points with x in ``rows``.
    """

    def __init__(self, decoder: TriplaneDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        planes: Tensor,
        points: Tensor | None = None,
        *,
        size: int = 0,
        rows: tuple[int, int] = (0, 0),
        extent: float = 0.0,
    ) -> Tensor | Field:
        if points is not None:
            return decode_points(self.decoder, planes, points)
        cells = CELLS_PER_CHUNK if planes.device.type == "cpu" else DEVICE_CELLS_PER_CHUNK
        return sdf_slab(self.decoder, planes, size, rows, extent=extent, cells_per_chunk=cells)


class Saliency(nn.Module):
    """U²-Net as published, on onnxruntime: ``module(pixels [1,3,320,320]) -> [320,320]``, higher on the subject."""

    def __init__(self, session: OnnxSession) -> None:
        super().__init__()
        self.session = session

    def forward(self, pixels: Tensor) -> Tensor:
        first = self.session.run({next(iter(self.session.inputs)): pixels.float().cpu().numpy()})[0]
        return torch.from_numpy(np.ascontiguousarray(first[0, 0], np.float32))


class BorderSaliency(nn.Module):
    """A stand-in without weights: how far each pixel's colour lies from the ground between the picture's borders.

    The ground is the border drawn across, straight from left to right or from top to bottom, whichever is nearer: a
    plain wall or one that darkens evenly. ``module(pixels [1,3,H,W]) -> [H,W]``, 0 where a colour is the ground's, 1
    from ``full`` deviations on.
    """

    def __init__(self, full: float = 0.5) -> None:
        super().__init__()
        self.full = full

    def forward(self, pixels: Tensor) -> Tensor:
        image = pixels[0].float()
        height, width = image.shape[1:]
        across = torch.linspace(0, 1, width, device=image.device)
        down = torch.linspace(0, 1, height, device=image.device)[:, None]
        grounds = (
            torch.lerp(image[:, :, :1], image[:, :, -1:], across),
            torch.lerp(image[:, :1], image[:, -1:], down),
        )
        far = torch.stack([(image - ground).abs().amax(dim=0) for ground in grounds]).amin(dim=0)
        return (far / self.full).clamp(max=1.0)

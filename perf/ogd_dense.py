"""OGD with directions in factors against OGD as usually written: an orthonormal basis of dense gradients, two GEMVs."""

from __future__ import annotations

import torch
from data_path import net
from measure import alternate, medians, one_thread, publish

from ong.curvature import Vector, find_blocks
from ong.projection import DirectionMemory, EuclideanProjection, collect_directions

M, CALLS, REPEATS = 2000, 5, 5


def main() -> None:
    one_thread()
    model = net()
    blocks = find_blocks(model)
    generator = torch.Generator().manual_seed(0)
    batch = [torch.randn(M, 784, generator=generator), torch.randint(10, (M,), generator=generator)]
    memory = DirectionMemory()
    memory.extend(collect_directions(model, batch, blocks=blocks), blocks)
    projection = EuclideanProjection(memory)
    assert projection.solver is not None
    dense = torch.cat([rows.dense(torch.arange(M)).flatten(1) for rows in memory.rows.values()], 1).T.contiguous()
    basis = torch.linalg.qr(dense.double()).Q.float().T.contiguous()  # [M, p]
    vector: Vector = {name: torch.randn(block.shape, generator=generator) for name, block in blocks.items()}
    flat = torch.cat([vector[name].flatten() for name in memory.rows])

    def factored() -> Vector:
        return projection(vector)

    def reference() -> torch.Tensor:
        return flat - basis.T @ (basis @ flat)

    ours = torch.cat([factored()[name].flatten() for name in memory.rows])
    gap = float((ours - reference()).norm() / flat.norm())
    seconds = medians(
        alternate(
            {
                "dense": lambda: [reference() for _ in range(CALLS)],
                "factored": lambda: [factored() for _ in range(CALLS)],
            },
            REPEATS,
        )
    )
    ms = {name: value / CALLS * 1e3 for name, value in seconds.items()}
    kept = {"dense": basis.numel() * 4, "factored": memory.bytes}
    working = M * M * (8 + 8 + 4)  # the Gram, its inverse, the inverse in float32: while a task is trained
    rows = [
        "| OGD, M = 2000, p = 89,610 | ms a projection | MB kept from task to task | MB while a task is trained |",
        "|---|---|---|---|",
        f"| dense, orthonormal basis | {ms['dense']:.1f} | {kept['dense'] / 1e6:.1f} | {kept['dense'] / 1e6:.1f} |",
        f"| factored, `ong.OGD` | {ms['factored']:.1f} | {kept['factored'] / 1e6:.1f} "
        f"| {(kept['factored'] + working) / 1e6:.1f} |",
        f"| dense / factored | {ms['dense'] / ms['factored']:.1f} | {kept['dense'] / kept['factored']:.0f} "
        f"| {kept['dense'] / (kept['factored'] + working):.1f} |",
        "",
        f"Relative distance of the two projected vectors: {gap:.1e}. Rank {projection.solver.rank} of {M}.",
    ]
    publish("ogd_dense", {"ms": ms, "bytes": kept, "working bytes": working, "gap": gap}, "\n".join(rows))


if __name__ == "__main__":
    main()

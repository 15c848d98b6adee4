//! The tests of the tests: kernels that are broken on purpose, each of which must be caught by the cases of
//! its op under emulation.

use super::common::lanes::deep;
use super::{DType, Device, Found, cases, device, edges, emulation, tensors};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A piece of text that occurs once in a file, and what stands there instead.
struct Mutation {
    /// In `kernels/`, or `ptx_emu.h` and `hopper_emu.h` of the emulation, which stand for the PTX of `ptx.cuh` and
    /// `hopper.cuh`.
    file: &'static str,
    /// The kernel file that is compiled with it.
    op: &'static str,
    from: &'static str,
    to: &'static str,
}

const fn own(op: &'static str, from: &'static str, to: &'static str) -> Mutation {
    Mutation { file: "", op, from, to }
}

const fn header(file: &'static str, op: &'static str, from: &'static str, to: &'static str) -> Mutation {
    Mutation { file, op, from, to }
}

impl Mutation {
    fn path(&self) -> String {
        if self.file.is_empty() { format!("{}.cu", self.op) } else { format!("include/{}", self.file) }
    }

    fn text(&self) -> String {
        format!("{}: {:?} instead of {:?}", self.path(), self.to, self.from)
    }

    /// The kernel file and all headers in a folder of their own, one of them changed.
    fn written(&self) -> Result<PathBuf, String> {
        use sha2::{Digest, Sha256};
        let hash: String = Sha256::digest(self.text()).iter().take(6).map(|b| format!("{b:02x}")).collect();
        let folder = emulation::folder().join("mutants").join(format!("{}-{hash}", self.op));
        fs::create_dir_all(folder.join("include")).map_err(|e| format!("{}: {e}", folder.display()))?;
        let kernels = emulation::root().join("kernels");
        let mut files = vec![(kernels.join(format!("{}.cu", self.op)), format!("{}.cu", self.op))];
        for path in emulation::files(&kernels.join("include"), "cuh")?.into_iter().chain(
            ["ptx_emu.h", "hopper_emu.h"].map(|name| emulation::root().join("tests/emulation").join(name)),
        ) {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            files.push((path, format!("include/{name}")));
        }
        let mut found = 0;
        for (path, name) in files {
            let mut text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            if name == self.path() && !self.from.is_empty() {
                found = text.matches(self.from).count();
                text = text.replacen(self.from, self.to, 1);
            }
            let to = folder.join(&name);
            fs::write(&to, text).map_err(|e| format!("{}: {e}", to.display()))?;
        }
        if !self.from.is_empty() && found != 1 {
            return Err(format!("{}: {:?} is there {found} times, not once", self.path(), self.from));
        }
        Ok(folder)
    }

    /// Compiles the file and runs the cases of its op in a process of its own: what was found, or nothing.
    fn caught(&self) -> Result<Option<String>, String> {
        let library = emulation::library_with(&self.written()?)?;
        let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
        command.args(["--exact", "--ignored", "mutations::cases_of_an_op", "--nocapture"]);
        command.env("L2P_EMU_LIBRARY", library).env("L2P_EMU_OP", self.op).stdin(Stdio::null());
        if self.from.is_empty() {
            command.env("L2P_EMU_SMALL", "1");
        }
        let output = command.output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(None);
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = text.lines().find_map(|l| l.strip_prefix("caught: ")).map(str::to_string);
        Ok(Some(said.unwrap_or_else(|| format!("{}: {}", output.status, text.trim()))))
    }
}

/// Barriers and waits that are dropped, indices that are swapped, bounds that are moved, ties, factors and
/// terms that are wrong, tails that are not handled.
const MUTATIONS: &[Mutation] = &[
    own("attention", "        __syncthreads();\n        whole(i);", "        whole(i);"),
    own("attention", "        __syncthreads(); // the stage may be filled again\n", ""),
    own("attention", "        cp_async_wait<1>();\n", "        cp_async_wait<2>();\n"),
    own(
        "attention",
        "    cp_async_wait<1>();\n    __syncthreads();\n    begin",
        "    __syncthreads();\n    begin",
    ),
    own(
        "attention",
        "    cp_async_wait<0>();\n    __syncthreads();\n    rest",
        "    __syncthreads();\n    rest",
    ),
    own("attention", "    __syncwarp();\n    tile.template store_warp", "    tile.template store_warp"),
    own("attention", "if (k + 1 == KEYS && key >= keys)", "if (k + 1 == KEYS && key > keys)"),
    own(
        "attention",
        "prob = first + j * 8 + t + e % 2 < left",
        "prob = first + j * 8 + t + e % 2 + 1 < left",
    ),
    own("attention", "if (left <= (MOST - 1) * 16)", "if (left <= MOST * 16)"),
    own("attention", "fmaf(unit, x, shift[e % 4 / 2])", "fmaf(unit, x, shift[0])"),
    own("attention", "kept[g][d], tile, row + g * 16, d * 16", "kept[g][d], tile, row, d * 16"),
    own("attention", "tile.at(row + i * 16 + half * 8 + g,", "tile.at(row + half * 8 + g,"),
    own("attention", "if (vectors != 0) return pass", "if (vectors == 0) return pass"),
    own("attention", "                sum[i][half] *= shrink;\n", ""),
    own(
        "attention",
        "to[0] = r < p.tq ? lse[entry] * LOG2_E : CUDART_INF_F;",
        "to[0] = lse[entry] * LOG2_E;",
    ),
    own("attention", "const bool before = row < first;", "const bool before = row <= first;"),
    own(
        "attention",
        "image = unit / p.heads, head = unit % p.heads",
        "image = unit % p.heads, head = unit / p.heads",
    ),
    own(
        "attention",
        "accumulate<T, WIDTH>(sum_v, s, stage(step, 1), i);",
        "accumulate<T, WIDTH>(sum_v, s, stage(step, 0), i);",
    ),
    own(
        "attention",
        "own_k.tile, at.row0, row, sum_k, by_scale, p)",
        "own_k.tile, at.row0, row, sum_k, by_one, p)",
    ),
    own(
        "attention",
        "Exact::accumulate(sum_v, prob, douts, p.head_dim);",
        "Exact::accumulate(sum_v, prob, qs, p.head_dim);",
    ),
    own(
        "attention",
        "        Exact::accumulate(o, prob, vs, p.head_dim);\n        __syncthreads();\n",
        "        Exact::accumulate(o, prob, vs, p.head_dim);\n",
    ),
    own("anchor", "end = min(first + PIECE, size_t(n))", "end = min(first + PIECE / 2, size_t(n))"),
    own("anchor", "fmaf(f.at[i] * away, away, sum)", "fmaf(f.at[i], away, sum)"),
    own(
        "anchor",
        "i < pieces; i += THREADS) sum += partial[i]",
        "i + 1 < pieces; i += THREADS) sum += partial[i]",
    ),
    own("anchor", "if (i < n) dp[i] = fmaf", "if (i <= n) dp[i] = fmaf"),
    own("anchor", "p[i] - anchor[i], dp[i]", "p[i] - anchor[i], 0.f"),
    own("anchor", "factor * expf(-loss[0])", "factor * expf(loss[0])"),
    own("anchor", "fmaf(weight * g[i], g[i], importance[i])", "fmaf(weight, g[i], importance[i])"),
    own(
        "attention_hopper",
        "            if (col + 8 > FEWEST && col + t + i % 2 >= tk) s[i] = -CUDART_INF_F;\n",
        "",
    ),
    own("attention_hopper", "col + t + i % 2 >= tk", "col + t + i % 2 > tk"),
    own("attention_hopper", "col + 8 > FEWEST", "col > FEWEST"),
    own(
        "attention_hopper",
        "mbarrier_wait(full() + place, i / PLACES % 2);",
        "mbarrier_wait(full() + place, i / PLACES % 2 ^ 1);",
    ),
    own("attention_hopper", "            mbarrier_wait(full() + place, i / PLACES % 2);\n", ""),
    own("attention_hopper", "            mbarrier_wait(empty() + place, i / PLACES % 2 ^ 1);\n", ""),
    own("attention_hopper", "i / PLACES % 2 ^ 1", "i / PLACES % 2"),
    own("attention_hopper", "        wgmma_wait<0>();\n        uint32_t p", "        uint32_t p"),
    own("attention_hopper", "        wgmma_wait<0>();\n        if (row0", "        if (row0"),
    own(
        "attention_hopper",
        "matrix_descriptor(values(place), TILE_BYTES, EIGHT_ROWS)",
        "matrix_descriptor(values(place), TILE_BYTES, EIGHT_ROWS / 2)",
    ),
    own(
        "attention_hopper",
        "matrix_descriptor(keys(place), 16, EIGHT_ROWS)",
        "matrix_descriptor(keys(place), 16, EIGHT_ROWS / 2)",
    ),
    own(
        "attention_hopper",
        "            if (threadIdx.x % WARP == 0) mbarrier_arrive(empty() + place);\n",
        "",
    ),
    own("attention_hopper", "            fence_proxy_async(); // copies", "            // copies"),
    own(
        "attention_hopper",
        "            __syncwarp();\n            if (threadIdx",
        "            if (threadIdx",
    ),
    own("attention_hopper", "k * (2 * EIGHT_ROWS >> 4)", "k * (EIGHT_ROWS >> 4)"),
    own("attention_hopper", "tiles() * TILE_BYTES + 2 * OTHER)", "tiles() * TILE_BYTES + OTHER)"),
    own("attention_hopper", "image = int(unit / heads);", "image = 0;"),
    own(
        "attention_hopper",
        "        wgmma_fence();\n#pragma unroll\n        for (unsigned k = 0",
        "#pragma unroll\n        for (unsigned k = 0",
    ),
    own("attention_hopper", "            fence_mbarrier_init();\n", ""),
    own("attention_hopper", "fmaf(scale, most,", "fmaf(1.f, most,"),
    header("attention_hopper.cuh", "attention_hopper", "        if (vectors) {", "        if (!vectors) {"),
    header("attention_hopper.cuh", "attention_hopper", "row >= count", "row > count"),
    header(
        "common.cuh",
        "attention_hopper",
        "return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));",
        "return x;",
    ),
    own("attention_hopper", "b + d * (32 >> 4), d > 0", "b + d * (32 >> 4), true"),
    own("attention_hopper", "FEW_REGISTERS = 40", "FEW_REGISTERS = 48"),
    own("attention_hopper", "pack<T>(a, b)", "pack<T>(b, a)"),
    own("attention_hopper", "int(tile * TILE_ROWS), image", "0, image"),
    own("attention_hopper", "tile < tiles(); tile += CONSUMERS", "tile < tiles(); tile += 1"),
    header("attention_hopper.cuh", "attention_hopper", "half == 0 ? factor : factor8", "factor"),
    header(
        "attention_hopper.cuh",
        "attention_hopper_backward",
        "    __syncwarp();\n#pragma unroll\n    for (unsigned i = 0; i < 4",
        "#pragma unroll\n    for (unsigned i = 0; i < 4",
    ),
    header("attention_hopper.cuh", "attention_hopper_backward", "row * stride", "r * stride"),
    own("attention_hopper_backward", "(whole_full() + place, 1 + writers)", "(whole_full() + place, 1)"),
    own("attention_hopper_backward", "(tile_empty() + stage, GROUP / WARP)", "(tile_empty() + stage, 1)"),
    own("attention_hopper_backward", "i / PLACES % 2 ^ 1); }", "i / PLACES % 2); }"),
    own(
        "attention_hopper_backward",
        "                mbarrier_wait(tile_empty() + stage, n / STAGES % 2 ^ 1);\n",
        "",
    ),
    own(
        "attention_hopper_backward",
        "                mbarrier_wait(tile_full() + stage, n / STAGES % 2);\n",
        "",
    ),
    own(
        "attention_hopper_backward",
        "            mbarrier_wait(whole_full() + place, i / PLACES % 2);\n",
        "",
    ),
    own(
        "attention_hopper_backward",
        "                if (first) mbarrier_arrive(tile_empty() + stage);\n",
        "",
    ),
    own(
        "attention_hopper_backward",
        "                fence_proxy_async(); // copies",
        "                // copies",
    ),
    own("attention_hopper_backward", "int(row0 + t * TILE_ROWS)", "int(t * TILE_ROWS + 1)"),
    own("attention_hopper_backward", "col + t + e >= tk", "col + t + e > tk"),
    own("attention_hopper_backward", "col + 8 > FEWEST", "col > FEWEST"),
    own("attention_hopper_backward", "if (t == 0 && row0 + half * 8 + g < tq) delta", "if (t == 0) delta"),
    own(
        "attention_hopper_backward",
        "first >= dq.first_row + dq.count ||",
        "first + 1 >= dq.first_row + dq.count ||",
    ),
    own("attention_hopper_backward", "prob.y * (dp[i + 1] - mean[half])", "prob.y * dp[i + 1]"),
    own("attention_hopper_backward", "            mean[half] = quad_sum(mean[half]);\n", ""),
    own(
        "attention_hopper_backward",
        "            operands.wait_for_room(place, i);\n            for",
        "            for",
    ),
    own(
        "attention_hopper_backward",
        "            if (lane == 0) mbarrier_arrive(operands.whole_full() + place);\n",
        "",
    ),
    own(
        "attention_hopper_backward",
        "            wgmma_wait<1>();\n#pragma unroll\n            for (unsigned i = 0; i < STEP / 2; i += 2) {\n                const float2 bound",
        "#pragma unroll\n            for (unsigned i = 0; i < STEP / 2; i += 2) {\n                const float2 bound",
    ),
    own(
        "attention_hopper_backward",
        "(first, TILE_BYTES, EIGHT_ROWS);\n    wgmma_fence();\n",
        "(first, TILE_BYTES, EIGHT_ROWS);\n",
    ),
    own("attention_hopper_backward", "weighted_rows<T>(sum_v, p, dout,", "weighted_rows<T>(sum_v, p, q,"),
    own(
        "attention_hopper_backward",
        "weighted_rows<T>(sum_k, ds, q, first > 0)",
        "weighted_rows<T>(sum_k, ds, q, true)",
    ),
    own("attention_hopper_backward", "image, head, row0, sum_k, scale)", "image, head, row0, sum_k, 1.f)"),
    own(
        "attention_hopper_backward",
        "matrix_descriptor(first, TILE_BYTES, EIGHT_ROWS)",
        "matrix_descriptor(first, TILE_BYTES, EIGHT_ROWS / 2)",
    ),
    own("axpy", "if (i < n) y[i] = from_f32<T>(fmaf", "if (i <= n) y[i] = from_f32<T>(fmaf"),
    own("axpy", "from_f32<T>(a * to_f32(x[i]))", "from_f32<T>(to_f32(x[i]))"),
    own("axpy", "if (i < n) y[i] = from_f32<To>", "if (i + 1 < n) y[i] = from_f32<To>"),
    own("component_weights", "min(first + i, b - 1)", "min(first + i, b)"),
    own("component_weights", "r * a;", "r;"),
    own("component_weights", "if (!inv.moves) return;", "return;"),
    own("component_weights", "own[b + i], q * q", "own[i], q * q"),
    own(
        "component_weights",
        "if (threadIdx.x % WARP == i && first + i < b) {",
        "if (threadIdx.x % WARP == i) {",
    ),
    own("cross_entropy", "z[j] == own && j < label", "z[j] == own && j > label"),
    own("cross_entropy", "(expf(z[j] - most) / sum - target) / float(b)", "expf(z[j] - most) / sum - target"),
    own("cross_entropy", "if (mask[j]) sum += expf", "sum += expf"),
    own("cross_entropy", "outcome[0] = loss / float(b);", "outcome[0] = loss;"),
    own(
        "row_norm",
        "    partial[threadIdx.x] = sum;\n    __syncthreads();",
        "    partial[threadIdx.x] = sum;",
    ),
    own("row_norm", "row = warp; row < rows; row += WARPS) sum", "row = warp; row < rows; row += WARP) sum"),
    own("match_prompts", "count ? -far * float(count)", "count ? -far"),
    own("match_prompts", ": 1.f / far;", ": far;"),
    own("match_prompts", "counts[j] += count;", "counts[j] = count;"),
    own("cross_entropy", "masks + image * mask_step", "masks"),
    own("cross_entropy", "all_weights + image * k", "all_weights"),
    own("cross_entropy", "(1.f - smoothing) * weights[j]", "weights[j]"),
    own("cross_entropy", "wrong |= weights[j] != 0.f && !mask[j];", ""),
    own("cross_entropy", "<< 32 | ~j;", "<< 32 | j;"),
    own("distill", "sum_z += expf((z[j] - most_z) / temperature);", "sum_z += expf(z[j] - most_z);"),
    own(
        "distill",
        "sum_t += expf((t[j] - most_t) / temperature);",
        "sum_t += expf((t[j] - most_z) / temperature);",
    ),
    own("distill", "(log_sum - own)", "(-own)"),
    own("distill", "dlogits[image * k + j] += scale", "dlogits[image * k + j] = scale"),
    own("distill", "weight / (float(b) * temperature)", "weight / float(b)"),
    own("distill", "distance[0] = sum / float(b);", "distance[0] = sum;"),
    own("gather", "row / length]) * length + row % length", "row % length]) * length + row / length"),
    own("gather", "    __syncthreads();\n    const unsigned column", "    const unsigned column"),
    own("gather", "from >= table_rows", "from > table_rows"),
    own("gather", "s < SHARES; s++", "s + 1 < SHARES; s++"),
    own("gather", "*to = from_f32<Table>(to_f32(*to) + all);", "*to = from_f32<Table>(all);"),
    own(
        "gelu",
        "from_f32<T>(gelu_value<T>(to_f32(v.at[i]), gelu))",
        "from_f32<T>(gelu_value<T>(to_f32(v.at[i]), GELU_TANH))",
    ),
    own("gelu", "to_f32(g.at[i]) * gelu_slope", "gelu_slope"),
    own("gelu", "store_chunk(y, j, n, v, vectors);", "store_chunk(y, j, j + Vec<T>::LEN, v, vectors);"),
    own(
        "layer_norm",
        "[](float v, unsigned) { return v; }) / float(c)",
        "[](float v, unsigned) { return v; })",
    ),
    own("layer_norm", "1.f / sqrtf(var + eps)", "1.f / sqrtf(var)"),
    own("layer_norm", "end = min(first + GROUP, rows)", "end = first + GROUP"),
    own("layer_norm", "* s.at[i] - mean_g - normed", "* s.at[i] - normed"),
    own("layer_norm", "dbias[j] += bias;", "dbias[j] = bias;"),
    own("match_prompts", "score != score ? 0 :", "score != score ? ~0u :"),
    own("match_prompts", "__float_as_uint(score + 0.f)", "__float_as_uint(score)"),
    own("match_prompts", "candidate < last &&", "candidate <= last &&"),
    own("match_prompts", "uint64_t(ordered) << 32 | ~position", "uint64_t(ordered) << 32 | ~(position ^ 1)"),
    own("match_prompts", "if (ids[i] < m) sum", "if (ids[i] <= m) sum"),
    own("match_prompts", "image < end; image += WARP", "image + 1 < end; image += WARP"),
    own("matmul", "cp_async_wait<STAGES - 2>();", "cp_async_wait<STAGES - 1>();"),
    own(
        "matmul",
        "            __syncthreads(); // this stage has landed, and no warp reads the one that is filled next\n",
        "",
    ),
    own(
        "matmul",
        "            __syncthreads(); // nobody reads the pipeline, or the rows before, any more\n",
        "",
    ),
    own(
        "matmul",
        "            __syncthreads();\n            done(sums, row);",
        "            done(sums, row);",
    ),
    own("matmul", "if (warp / (BN / WN) * WM == row)", "if (warp / (BN / WN) * WM != row)"),
    own("matmul", "filled = filled == PIPELINE - STAGE ?", "filled = filled == PIPELINE - 2 * STAGE ?"),
    own("matmul", "half * 8 + lane / 4, wn", "half * 8 + lane % 8, wn"),
    own("matmul", "outer0 + o < outer_end && k0 + k < k_end", "outer0 + o < outer_end"),
    own("matmul", "            __syncthreads();\n        }\n", "        }\n"),
    header(
        "epilogue.cuh",
        "matmul",
        "const unsigned count = min(4u, cols - col);",
        "const unsigned count = 4;",
    ),
    header("epilogue.cuh", "matmul", "v[e] += bias[e];", "v[e] += bias[0];"),
    header("epilogue.cuh", "matmul_hopper", "r < ROWS && row0 + r < rows;", "r < ROWS;"),
    header("hopper_emu.h", "matmul_hopper", "emu::wgmma_wait(N, ", "emu::wgmma_wait(N + 1, "),
    header(
        "hopper_emu.h",
        "matmul_hopper",
        "emu::mbarrier_wait(barrier, parity, ",
        "emu::mbarrier_wait(barrier, parity ^ 1, ",
    ),
    own("matmul", "for (unsigned s = 0; s < slices; s++)", "for (unsigned s = 1; s < slices; s++)"),
    own("matmul", "sum += bias[i % cols]", "sum += bias[i / cols]"),
    own("matmul", "MATMUL_SLICES(forward, Inner::Outer)", "MATMUL_SLICES(forward, Inner::Depth)"),
    own("matmul", "min(m, (slice + 1) * depth)", "min(m, slice * depth + 1)"),
    own("matmul", "min(sum, (slice + 1) * depth)", "min(sum, slice * depth + 1)"),
    own("matmul", "add != 0 ? *to + sum : sum", "*to + sum"),
    own("matmul_hopper", "mbarrier_arrive_expect_tx(done, STAGE)", "mbarrier_arrive(done)"),
    own(
        "matmul_hopper",
        "mbarrier_arrive_expect_tx(done, STAGE)",
        "mbarrier_arrive_expect_tx(done, A_BYTES)",
    ),
    own("matmul_hopper", "                mbarrier_wait(empty() + at.stage, at.parity ^ 1);\n", ""),
    own("matmul_hopper", "at.parity ^ 1", "at.parity"),
    own("matmul_hopper", "                mbarrier_wait(full() + at.stage, at.parity);\n", ""),
    own("matmul_hopper", "if (stage == STAGES) stage = 0, parity ^= 1;", "if (stage == STAGES) stage = 0;"),
    own("matmul_hopper", "        wgmma_fence();\n", ""),
    own("matmul_hopper", "        wgmma_commit();\n", ""),
    own("matmul_hopper", "wgmma_wait<1>();", "wgmma_wait<2>();"),
    own("matmul_hopper", "            wgmma_wait<0>();\n", ""),
    own(
        "matmul_hopper",
        "if (step > 0 && lane == 0) mbarrier_arrive(empty() + used);",
        "if (step > 0 && lane == 0) mbarrier_arrive(empty() + at.stage);",
    ),
    own("matmul_hopper", "if (step > 0 && lane == 0)", "if (step > 0 && thread == 0)"),
    own("matmul_hopper", "            if (lane == 0) mbarrier_arrive(empty() + used);\n", ""),
    own("matmul_hopper", "EIGHT = 8 * ROW,", "EIGHT = 4 * ROW,"),
    own("matmul_hopper", "? DEPTH * ROW : 16;", "? 8 * ROW : 16;"),
    own("matmul_hopper", "? 2 * EIGHT : 32;", "? EIGHT : 32;"),
    own("matmul_hopper", "accumulate || k > 0", "true"),
    own(
        "matmul_hopper",
        "multiply(acc, stage(at.stage), consumer, step > 0)",
        "multiply(acc, stage(at.stage), 0, step > 0)",
    ),
    own("matmul_hopper", "col0 + int(c * COLS), k)", "col0, k)"),
    own("matmul_hopper", "                named_barrier_sync(1 + consumer, GROUP);\n", ""),
    own(
        "matmul_hopper",
        "                named_barrier_sync(1 + consumer, GROUP); // the sums may be overwritten\n",
        "",
    ),
    own("matmul_hopper", "named_barrier_sync(1 + consumer, GROUP);\n", "named_barrier_sync(1, GROUP);\n"),
    own("matmul_hopper", "            fence_mbarrier_init();\n", ""),
    own("matmul_hopper", "        __syncthreads();\n", ""),
    own(
        "matmul_hopper",
        "for (unsigned tile = blockIdx.x; tile < tiles(); tile += gridDim.x) {\n            float",
        "for (unsigned tile = blockIdx.x; tile < tiles(); tile += gridDim.x + 1) {\n            float",
    ),
    own("matmul_hopper", "nullptr, residual, pre, lddx", "nullptr, residual, nullptr, lddx"),
    own("matmul_hopper", "FEW_REGISTERS = 40", "FEW_REGISTERS = 48"),
    own("optimizer", "rest2 * d * d", "rest2 * d"),
    own("optimizer", "lr * update + lr * decay", "lr * update + decay"),
    own("optimizer", "nesterov ? d + momentum * speed.at[i] : speed.at[i]", "speed.at[i]"),
    own(
        "optimizer",
        "unscale * fminf(1.f, max_norm / (norm + 1e-6f))",
        "unscale * (max_norm / (norm + 1e-6f))",
    ),
    own("optimizer", "if (!(norm <= 3.402823466e38f)) return CUDART_NAN_F;", ""),
    own(
        "patches",
        "y = blockIdx.x / grid % grid, x = blockIdx.x % grid",
        "x = blockIdx.x / grid % grid, y = blockIdx.x % grid",
    ),
    own(
        "patches",
        "corner + j / line * next_line, j % line, line",
        "corner + j / line * line, j % line, line",
    ),
    own("patches", "corner[at / line * next_line + at % line]", "corner[at / line * line + at % line]"),
    own("pool_tokens", "i >= from && i < from + n", "i >= from && i <= from + n"),
    own("pool_tokens", "kind == POOL_MEAN_MAX ? 2.f : 1.f", "kind == POOL_MEAN_MAX ? 1.f : 1.f"),
    own("pool_tokens", "ties = v > most ? 1 : ties + (v == most);", "ties += v >= most;"),
    own("preprocess", "__fmul_rn(float(at) + 0.5f, scale)", "__fmul_rn(float(at), scale)"),
    own("preprocess", "flip[0] ? size - 1 - x : x", "flip[0] ? size - x : x"),
    own("preprocess", "    __syncthreads();\n", ""),
    own("preprocess", "min(BAND, size - blockIdx.y * BAND)", "BAND"),
    own("preprocess", "(size_t(y) * width + x) * channels", "(size_t(x) * width + y) * channels"),
    own("row_norm", "-0.5f * inv * inv / norm", "-0.5f * inv / norm"),
    own("row_norm", "2.f * inv.y * dot(dy + at, x + at, c)", "inv.y * dot(dy + at, x + at, c)"),
    own("row_norm", "j < c; j += WARP) y[at + j]", "j + 1 < c; j += WARP) y[at + j]"),
    own("sum", "end = min(first + GROUP, rows)", "end = first + GROUP"),
    own("sum", "g < groups; g++", "g + 1 < groups; g++"),
    own("sum", "min(first + PIECE, size_t(n))", "min(first + PIECE / 2, size_t(n))"),
    own("sum", "out[0] += sum;", "out[0] = sum;"),
    own("tokens", "(blockIdx.x / t) * (t - 1) + row - 1", "(blockIdx.x / t) * (t - 1) + row"),
    own("tokens", "image = blockIdx.x / n, i = blockIdx.x % n", "image = blockIdx.x % n, i = blockIdx.x / n"),
    own(
        "tokens",
        "for (unsigned image = 0; image < b; image++)",
        "for (unsigned image = 1; image < b; image++)",
    ),
    own("tokens", "to_f32(old.at[k]) + to_f32(v.at[k])", "to_f32(v.at[k])"),
    header(
        "chunk.cuh",
        "gelu",
        "        if (j + i < end) row[j + i] = v.at[i];",
        "        row[j + i] = v.at[i];",
    ),
    header("chunk.cuh", "gelu", "v.at[i] = j + i < end ?", "v.at[i] = j + i + 1 < end ?"),
    header("chunk.cuh", "tokens", "f.at[i + k] = v.at[k];", "f.at[k] = v.at[k];"),
    header(
        "common.cuh",
        "cross_entropy",
        "    __syncthreads();\n    float sum = 0.f;",
        "    float sum = 0.f;",
    ),
    header(
        "common.cuh",
        "cross_entropy",
        "    __syncthreads(); // `partial` may be used again at once\n",
        "",
    ),
    header(
        "common.cuh",
        "sum",
        "for (int o = 16; o > 0; o >>= 1) x += __shfl",
        "for (int o = 8; o > 0; o >>= 1) x += __shfl",
    ),
    header(
        "common.cuh",
        "sum",
        "for (unsigned w = 0; w < WARPS; w++) sum",
        "for (unsigned w = 1; w < WARPS; w++) sum",
    ),
    header("gelu.cuh", "gelu", "s + x * s * (1.f - s)", "s + s * (1.f - s)"),
    header("gelu.cuh", "gelu", "erff(x * 0.7071067812f)", "erff(x * 0.7081067812f)"),
    header("philox.cuh", "preprocess", "round < 10", "round < 9"),
    header(
        "philox.cuh",
        "preprocess",
        "uint32_t(p1 >> 32) ^ counter.y ^ key.x",
        "uint32_t(p1 >> 32) ^ counter.y ^ key.y",
    ),
    header("ptx_emu.h", "matmul", "emu::next_copy(size_t(N), &c)", "emu::next_copy(size_t(N) + 1, &c)"),
    header("ptx_emu.h", "matmul", "TRANS ? l / 4 : l % 4 * 2", "l % 4 * 2"),
    header(
        "tile.cuh",
        "attention",
        "const bool some = row0 + r < rows.end && col < col_end;",
        "const bool some = row0 + r < rows.end;",
    ),
    header(
        "tile.cuh",
        "matmul",
        "const bool some = row0 + r < rows.end && col < col_end;",
        "const bool some = col < col_end;",
    ),
    header("tile.cuh", "matmul", "int(k) < left", "int(k) <= left"),
    header("tile.cuh", "matmul", "min(outer0 + r, outer_end - 1)", "(outer0 + r)"),
    header("tile.cuh", "matmul", "min(outer0 + col, outer_end - Into::CHUNK)", "(outer0 + col)"),
    header("tile.cuh", "matmul", "some && col + e < col_end", "some && col + e <= col_end"),
    header(
        "tile.cuh",
        "matmul",
        "outer += OUTER_SECOND ? second : third;",
        "outer += OUTER_SECOND ? third : second;",
    ),
    header("tile.cuh", "attention", "e < min(CHUNK, cols - col)", "e < CHUNK"),
    header(
        "tile.cuh",
        "attention",
        "if (row0 + r >= rows.end || col >= cols) continue;",
        "if (row0 + r >= rows.end) continue;",
    ),
];

/// The variable with the one kernel file that the tests of mutations and races are for; without it they are for all.
const ONLY: &str = "L2P_KERNEL_FILE";

/// Whether the tests of mutations and races are for this kernel file.
pub fn selected(file: &str) -> bool {
    std::env::var(ONLY).map_or(true, |only| only == file)
}

/// What shows in some orders only.
const MANY_ORDERS: [(u64, usize); 6] = [(1, 64), (0, 67), (2, 64), (3, 64), (4, 64), (5, 64)];

/// The ops whose cases run the kernels of a file.
fn cases_run(op: &str) -> &[&str] {
    match op {
        "matmul" | "matmul_hopper" => &["matmul", "linear"],
        "attention_hopper" | "attention_hopper_backward" => &["attention"],
        "sum" => &["sum", "tokens", "linear"],
        _ => &[],
    }
}

/// Started by `deep_every_mutation_is_caught` for one library: the cases of an op, small ones first, until
/// something is wrong.
#[test]
#[ignore = "started by deep_every_mutation_is_caught"]
fn cases_of_an_op() {
    let op = std::env::var("L2P_EMU_OP").expect("the name of a kernel file");
    let Some(gpu) = device() else { return };
    // A loop that does not end is found, too.
    std::thread::spawn(|| {
        std::thread::sleep(Duration::from_secs(240));
        eprintln!("caught: no end after four minutes");
        std::process::exit(1);
    });
    if op.contains("_hopper") {
        let gpu = super::hopper::device().expect("an emulated device");
        if let Some(failure) = super::hopper::first_failure(&gpu, cases_run(&op), &MANY_ORDERS) {
            eprintln!("caught: {failure}");
            std::process::exit(1);
        }
        return;
    }
    let dev = Device::Cuda(gpu.clone());
    let mine = |case: &cases::Case| case.op == op || cases_run(&op).contains(&case.op);
    let size = |case: &cases::Case| case.inputs.iter().map(|a| a.shape.len()).sum::<usize>();
    let mut small: Vec<_> = cases::small().into_iter().filter(mine).collect();
    let mut medium: Vec<_> = cases::medium().into_iter().filter(mine).collect();
    small.sort_by_key(size);
    medium.sort_by_key(size);
    assert!(!small.is_empty(), "no cases of {op}");
    let run = |cases: &[cases::Case], runs: &[(u64, usize)]| {
        for case in cases {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let mut found = Found::default();
                if dtype == DType::F32 || case.has_narrow_form() {
                    found.check(case, &gpu, dtype, runs);
                }
                if let Some(failure) = found.failures.first() {
                    eprintln!("caught: {failure}");
                    std::process::exit(1);
                }
            }
        }
    };
    run(&small, &super::RUNS);
    edges::of(&op, &dev);
    if op == "axpy" {
        tensors::rounding(&dev);
    }
    // The whole files pass what is small; what is large they have passed in `kernels_agree_with_the_cpu`.
    if std::env::var_os("L2P_EMU_SMALL").is_none() {
        run(&medium, &MANY_ORDERS);
    }
}

#[test]
fn deep_every_mutation_is_caught() {
    if !deep(&format!("{} mutations of kernels", MUTATIONS.len())) {
        return;
    }
    if std::env::var_os("L2P_REQUIRE_GPU").is_some_and(|v| v == "1") || emulation::compiler().is_err() {
        let _ = super::device();
        eprintln!("skipped: {} mutations of kernels run under emulation only", MUTATIONS.len());
        return;
    }
    let kernels = emulation::root().join("kernels");
    let stems = |folder: PathBuf, extension: &str| -> Vec<String> {
        let files = emulation::files(&folder, extension).expect("kernels");
        files.iter().map(|p| p.file_name().expect("a name").to_string_lossy().into_owned()).collect()
    };
    // What stands for the PTX of ptx.cuh is broken in its place: no host compiler sees that.
    let headers = stems(kernels.join("include"), "cuh").into_iter();
    let headers = headers.map(|name| match name.strip_suffix(".cuh") {
        Some(stem @ ("ptx" | "hopper")) => format!("{stem}_emu.h"),
        _ => name,
    });
    let sources = stems(kernels, "cu");
    for name in sources.iter().cloned().chain(headers) {
        let of =
            MUTATIONS.iter().filter(|m| m.path().ends_with(&format!("include/{name}")) || m.path() == name);
        assert!(of.count() >= 2, "{name} needs two mutations at least");
    }
    // The harness itself: each file as it is must pass.
    let whole: Vec<Mutation> = sources
        .iter()
        .map(|name| Mutation {
            file: "",
            op: ops().iter().find(|op| name == &format!("{op}.cu")).expect("an op"),
            from: "",
            to: "",
        })
        .collect();
    let (share, of) = share();
    let mine = MUTATIONS.iter().enumerate().filter(|(i, _)| i % of == share).map(|(_, m)| m);
    let all: Vec<&Mutation> = mine.chain(&whole).filter(|m| selected(m.op)).collect();
    assert!(!all.is_empty(), "{ONLY} names no kernel file");
    let outcomes = emulation::in_parallel(&all, |m| m.caught());
    let mut wrong = Vec::new();
    for (m, outcome) in all.iter().zip(outcomes) {
        match outcome {
            Err(why) => wrong.push(why),
            Ok(None) if m.from.is_empty() => {}
            Ok(Some(said)) if m.from.is_empty() => wrong.push(format!("{} as it is: {said}", m.path())),
            Ok(None) => wrong.push(format!("no test notices {}", m.text())),
            Ok(Some(_)) => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), all.len(), wrong.join("\n"));
    let caught = all.iter().filter(|m| !m.from.is_empty()).count();
    eprintln!("kernels: all of {caught} mutations caught, of {}", MUTATIONS.len());
    if of > 1 {
        eprintln!("skipped: the mutations of the other {} shares ({SHARE})", of - 1);
    }
}

/// Asks for one of several shares of the mutations, by number from 0: `1/3`. All are taken without it.
const SHARE: &str = "L2P_MUTATIONS";

fn share() -> (usize, usize) {
    let Ok(word) = std::env::var(SHARE) else { return (0, 1) };
    let parts = word.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    parts.filter(|(i, n)| i < n).unwrap_or_else(|| panic!("{SHARE}: wanted a share like 1/3, found {word:?}"))
}

/// The kernel files that mutations are of.
fn ops() -> Vec<&'static str> {
    let mut ops: Vec<&str> = MUTATIONS.iter().map(|m| m.op).collect();
    ops.dedup();
    ops
}

//! The prompted network written once more, from the paper and the official code, with the tokens in
//! the order they are named: a list of rows per image, one image at a time, no shared memory.

use super::support::{CLASSES, Kind, images, kinds, labels};
use l2p_engine::config::schema::TokenOrder;
use l2p_engine::network::Model;
use l2p_engine::nn::params::Params;
use l2p_engine::ops::gelu::GeluForm;
use l2p_engine::prompts::Query;
use l2p_engine::tensor::DType;
use l2p_engine::testing::close::relative_error;
use l2p_engine::testing::plain;

type Rows = Vec<Vec<f64>>;

const C: usize = 12;
const BATCH: usize = 4;

fn get(p: &Params, name: &str) -> Vec<f64> {
    p.get(p.find(name).unwrap_or_else(|| panic!("no parameter {name}"))).to_f64()
}

fn linear(p: &Params, name: &str, x: &[Vec<f64>]) -> Rows {
    let (w, b) = (get(p, &format!("{name}/kernel")), get(p, &format!("{name}/bias")));
    let (k, n) = (x[0].len(), b.len());
    let out = |row: &Vec<f64>, j: usize| (0..k).map(|i| row[i] * w[i * n + j]).sum::<f64>() + b[j];
    x.iter().map(|row| (0..n).map(|j| out(row, j)).collect()).collect()
}

fn norm(p: &Params, name: &str, x: &[Vec<f64>]) -> Rows {
    let (scale, bias) = (get(p, &format!("{name}/scale")), get(p, &format!("{name}/bias")));
    x.iter().map(|row| plain::layer_norm(row, &scale, &bias, 1e-6).0).collect()
}

fn sum(x: &[Vec<f64>], y: &[Vec<f64>]) -> Rows {
    x.iter().zip(y).map(|(x, y)| plain::add(x, y)).collect()
}

fn block(p: &Params, l: usize, x: &[Vec<f64>]) -> Rows {
    let (h, d, t) = (3, C / 3, x.len());
    let qkv = linear(p, &format!("block_{l}/qkv"), &norm(p, &format!("block_{l}/ln1"), x));
    let mut mixed = vec![vec![0.0; C]; t];
    for (head, i) in (0..h).flat_map(|head| (0..t).map(move |i| (head, i))) {
        let dot = |j: usize| (0..d).map(|l| qkv[i][head * d + l] * qkv[j][C + head * d + l]).sum::<f64>();
        let weights: Vec<f64> = (0..t).map(|j| (dot(j) / (d as f64).sqrt()).exp()).collect();
        let total: f64 = weights.iter().sum();
        for l in 0..d {
            let value = |j: usize| weights[j] / total * qkv[j][2 * C + head * d + l];
            mixed[i][head * d + l] = (0..t).map(value).sum();
        }
    }
    let mid = sum(x, &linear(p, &format!("block_{l}/proj"), &mixed));
    let mut wide = linear(p, &format!("block_{l}/fc1"), &norm(p, &format!("block_{l}/ln2"), &mid));
    wide.iter_mut().flatten().for_each(|v| *v = plain::gelu(*v, GeluForm::Tanh).0);
    sum(&mid, &linear(p, &format!("block_{l}/fc2"), &wide))
}

/// Embedded patches of one 8 x 8 image, before positions.
fn patches(p: &Params, image: &[f64]) -> Rows {
    let pixel = |y: usize, x: usize, c: usize| image[(y * 8 + x) * 3 + c];
    let row = |n: usize| {
        let inside = (0..4).flat_map(|u| (0..4).flat_map(move |v| (0..3).map(move |c| (u, v, c))));
        inside.map(|(u, v, c)| pixel(n / 2 * 4 + u, n % 2 * 4 + v, c)).collect()
    };
    linear(p, "embedding", &(0..4).map(row).collect::<Rows>())
}

/// Prompt rows of the chosen ids: [id][position] of a pool (1, M, 2, C).
fn chosen(p: &Params, ids: &[u32]) -> Rows {
    let pool = get(p, "prompt_pool/prompt");
    let row = |n: usize| pool[n * C..(n + 1) * C].to_vec();
    ids.iter().flat_map(|&id| (0..2).map(move |i| row(id as usize * 2 + i))).collect()
}

fn unit(x: &[f64]) -> Vec<f64> {
    let length = x.iter().map(|v| v * v).sum::<f64>().sqrt();
    x.iter().map(|v| v / length).collect()
}

/// Logits of one image with the given prompts, in the literal order of tokens.
fn logits(p: &Params, order: TokenOrder, image: &[f64], ids: &[u32]) -> Vec<f64> {
    let positions: Rows = get(p, "pos_embedding").chunks_exact(C).map(<[f64]>::to_vec).collect();
    let cls = plain::add(&get(p, "cls"), &positions[0]);
    let patches = sum(&patches(p, image), &positions[1..]);
    let prompts = chosen(p, ids);
    let n = prompts.len();
    let (mut x, at) = match order {
        // [prompts; CLS; patches], no position on the prompts.
        TokenOrder::PromptsFirst => ([prompts, vec![cls], patches].concat(), 0),
        // [CLS; prompts; patches], the prompts with the class token's position.
        TokenOrder::ClsFirst => {
            let prompts = prompts.iter().map(|row| plain::add(row, &positions[0])).collect();
            ([vec![cls], prompts, patches].concat(), 1)
        }
    };
    for l in 0..3 {
        x = block(p, l, &x);
    }
    let normed = norm(p, "norm", &x);
    let mean = (0..C).map(|j| normed[at..at + n].iter().map(|row| row[j]).sum::<f64>() / n as f64);
    linear(p, "head", &[mean.collect()]).remove(0)
}

/// Ids of one image's two most similar keys, and the similarities of all.
fn select(p: &Params, model: &Model, image: &[f64]) -> (Vec<u32>, Vec<f64>) {
    let positions: Rows = get(p, "pos_embedding").chunks_exact(C).map(<[f64]>::to_vec).collect();
    assert_eq!(model.prompts.query(), Query::Cls);
    let mut x = sum(&[vec![get(p, "cls")], patches(p, image)].concat(), &positions);
    for l in 0..3 {
        x = block(p, l, &x);
    }
    let query = unit(&norm(p, "norm", &x)[0]);
    let keys = get(&model.params, "prompt_pool/key");
    let dot = |key: &[f64]| unit(key).iter().zip(&query).map(|(k, q)| k * q).sum::<f64>();
    let similarity: Vec<f64> = keys.chunks_exact(C).map(dot).collect();
    let mut order: Vec<u32> = (0..similarity.len() as u32).collect();
    order.sort_by(|&a, &b| similarity[b as usize].total_cmp(&similarity[a as usize]));
    (order[..2].to_vec(), similarity)
}

fn compare(kind: &Kind, order: TokenOrder) {
    let mut kind = kind.clone();
    kind.config.model.token_order = order;
    kind.config.prompt_pool.batchwise_prompt = false;
    let mut model = kind.model(BATCH);
    let (x, y) = (images(BATCH, DType::F64), labels(BATCH));
    let stats = kind.step(&mut model, &x, &y);
    let (pixels, labels) = (x.to_f64(), y.to_f64());
    let (mut wanted, mut loss, mut pull) = (Vec::new(), 0.0, 0.0);
    for (i, image) in pixels.chunks_exact(8 * 8 * 3).enumerate() {
        let frozen = model.query_params.as_ref().unwrap_or(&model.params);
        let (ids, similarity) = select(frozen, &model, image);
        let got: Vec<u32> = model.prompts.pool().expect("a pool").ids.as_slice::<u32>().expect("u32")
            [2 * i..2 * i + 2]
            .to_vec();
        assert_eq!(got, ids, "{order}: ids of image {i}");
        let z = logits(&model.params, order, image, &ids);
        let allowed = || (0..CLASSES).filter(|&k| k != 3);
        let denominator: f64 = allowed().map(|k| z[k].exp()).sum();
        loss += (denominator.ln() - z[labels[i] as usize]) / BATCH as f64;
        pull += ids.iter().map(|&id| similarity[id as usize]).sum::<f64>() / BATCH as f64;
        wanted.extend(z);
    }
    let error = relative_error(&model.logits().to_f64(), &wanted);
    assert!(error <= 1e-12, "{order}: logits are off by {error:.1e}");
    for (what, got, wanted) in [
        ("ce_loss", stats.ce_loss, loss),
        ("pull", stats.pull, pull),
        ("loss", stats.loss, loss - 0.7 * pull),
    ] {
        let error = relative_error(&[got], &[wanted]);
        assert!(error <= 1e-12, "{order}: {what} {got} is not {wanted}");
    }
}

#[test]
fn literal_token_orders() {
    let frozen = kinds().into_iter().find(|k| k.name == "vote").expect("a kind");
    let learning = kinds().into_iter().find(|k| k.name == "everything learns").expect("a kind");
    for order in [TokenOrder::ClsFirst, TokenOrder::PromptsFirst] {
        compare(&frozen, order);
        compare(&learning, order);
    }
}

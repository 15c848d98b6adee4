//! The prompted network forwards: query pass, prompted pass, head.

use super::*;

impl Model {
    /// The plain network on the frozen backbone, class row after the final norm. With `share`, what
    /// the prompted pass needs of it is copied on the way. `adapted`: with adapters, where there are any.
    pub(super) fn query_pass(
        &mut self,
        dev: &Device,
        batch: usize,
        share: bool,
        adapted: bool,
    ) -> Result<()> {
        let (dims, last) = (self.setup.dims, self.setup.dims.layers - 1);
        let t0 = dims.tokens();
        let p = self.query_params.as_ref().unwrap_or(&self.params);
        let ws = &mut self.ws;
        let [x, next] = &mut ws.query_x;
        self.vit.embed(dev, p, x, &mut ws.embedded)?;
        let acts = &mut ws.query_acts;
        if let Some(adapter) = &mut acts.adapter {
            adapter.on = adapted;
        }
        for (l, block) in self.vit.blocks.iter().enumerate() {
            let only_cls = l == last && self.setup.shortcuts.limit_query_block && t0 > 1;
            let read = if only_cls { 0..1 } else { 0..t0 };
            let extents = BlockShape { batch, tokens: t0, read };
            block.project(Tools { dev, p, temp: &mut ws.temp }, acts, x, &extents)?;
            if share && self.layout.entry == Some(l) {
                let layer = &self.layout.layers[l];
                let (at, target) = (layer.tokens_in, &mut ws.acts[l]);
                target.shape(&BlockShape::all(batch, layer.tokens), &dims.block());
                tokens::copy(dev, target.qkv.view_mut(), at, acts.qkv.view(), 0..t0, Write::Set)?;
                ws.xs[l].reshape([batch, layer.tokens, dims.embed_dim]);
                tokens::copy(dev, ws.xs[l].view_mut(), at, x.view(), 0..t0, Write::Set)?;
            }
            block.attend(Tools { dev, p, temp: &mut ws.temp }, next, acts, x, None)?;
            std::mem::swap(x, next);
        }
        // The class row is row 0 of what the last block gave.
        let (rows, c) = (x.dims()[1], dims.embed_dim);
        next.reshape([batch, 1, c]);
        tokens::copy(dev, next.view_mut(), 0, x.view().reshaped([batch, rows, c]), 0..1, Write::Set)?;
        ws.query_stats.reshape([batch, 2]);
        ws.query.reshape([batch, c]);
        let (query, mut cls) = (ws.query.view_mut(), next.view().reshaped([batch, c]));
        if cls.dtype() != query.dtype() {
            ws.query_cls.reshape([batch, c]);
            cast(dev, ws.query_cls.view_mut(), cls)?;
            cls = ws.query_cls.view();
        }
        self.vit.norm.forward(dev, p, query, ws.query_stats.view_mut(), cls)
    }

    /// Tokens of the prompted pass before any prompt; and the query, where patches make it.
    pub(super) fn embed(&mut self, dev: &Device, batch: usize) -> Result<()> {
        let patch_query = self.patch_query();
        let ws = &mut self.ws;
        let direct = self.layout.layers[0].tokens_in == 0;
        let x = if direct { &mut ws.xs[0] } else { &mut ws.stage };
        self.vit.embed(dev, &self.params, x, &mut ws.embedded)?;
        if let Some(kind) = patch_query {
            let (patches, n) = (ws.embedded.patches.view(), self.setup.dims.patches());
            ws.query.reshape([batch, self.setup.dims.embed_dim]);
            pool_tokens::forward(dev, ws.query.view_mut(), patches, 0..n, kind)?;
        }
        Ok(())
    }

    /// From tokens and selected ids to logits. `shared`: the query pass has left the entry layer's
    /// input and projections of the image tokens.
    pub(super) fn forward(&mut self, dev: &Device, batch: usize, shared: bool) -> Result<()> {
        let (c, last) = (self.setup.dims.embed_dim, self.setup.dims.layers - 1);
        let first = if shared { self.layout.entry.unwrap_or(0) } else { 0 };
        for l in first..=last {
            let reused = shared && l == first;
            self.insert_prompts(dev, batch, l, reused)?;
            let layer = &self.layout.layers[l];
            let (block, p, ws) = (&self.vit.blocks[l], &self.params, &mut self.ws);
            let limit = l == last && self.limit_last;
            let read = if limit { self.layout.read.clone() } else { 0..layer.tokens };
            let extents = BlockShape { batch, tokens: layer.tokens, read };
            let prefix = (layer.prefix_rows > 0)
                .then(|| Prefix { k: ws.prefixes[l][0].view(), v: ws.prefixes[l][1].view() });
            let (here, after) = ws.xs.split_at_mut(l + 1);
            let direct = after.first_mut().filter(|_| self.layout.layers[l + 1].tokens_in == 0);
            let y = match direct {
                Some(next) => next,
                None if l == last => &mut ws.last,
                None => &mut ws.stage,
            };
            let (x, acts) = (&here[l], &mut ws.acts[l]);
            if !reused {
                block.project(Tools { dev, p, temp: &mut ws.temp }, acts, x, &extents)?;
            }
            if let (Some(own), Some(dims)) = (&mut acts.adapter, self.setup.adapter) {
                own.draw(self.dropout.as_ref(), dims, (l, last + 1), acts.extents.read.clone())?;
            }
            block.attend(Tools { dev, p, temp: &mut ws.temp }, y, acts, x, prefix.as_ref())?;
        }
        self.head_forward(dev, batch, c)
    }

    /// Puts the prompts of layer `l` in front of its input, and fills its prefixes. `reused`: the
    /// image rows are in place already, and the prompt rows are projected here, once per pool row.
    fn insert_prompts(&mut self, dev: &Device, batch: usize, l: usize, reused: bool) -> Result<()> {
        let (layer, c) = (&self.layout.layers[l], self.setup.dims.embed_dim);
        let (p, ws) = (&self.params, &mut self.ws);
        if layer.prefix_rows > 0 {
            ws.prefixes[l].iter_mut().for_each(|side| side.reshape([batch, layer.prefix_rows, c]));
            self.prompts.write_prefix(dev, p, l, &mut ws.prefixes[l])?;
        }
        if layer.tokens_in == 0 {
            return Ok(());
        }
        ws.xs[l].reshape([batch, layer.tokens, c]);
        if !reused {
            let before = layer.tokens - layer.tokens_in;
            let stage = ws.stage.view().reshaped([batch, before, c]);
            tokens::copy(dev, ws.xs[l].view_mut(), layer.tokens_in, stage, 0..before, Write::Set)?;
        }
        for TokenRows { table, at, ids, length } in self.prompts.token_rows(p, l, batch) {
            let cls_first = self.setup.token_order == TokenOrder::ClsFirst;
            let position = cls_first.then(|| p.get(self.vit.positions).part(0, [c]));
            fill_table(dev, &mut ws.table, table, position)?;
            let n = table.dims()[0];
            gather::forward(dev, ws.xs[l].view_mut(), at, ws.table.view(), ids, length)?;
            if reused {
                let block = &self.vit.blocks[l];
                ws.table_stats.reshape([n, 2]);
                ws.table_qkv.reshape([n, 3 * c]);
                ws.table_normed.reshape([n, c]);
                let (normed, stats) = (&mut ws.table_normed, ws.table_stats.view_mut());
                block.ln1.forward(dev, p, normed.view_mut(), stats, ws.table.view())?;
                block.qkv.forward(dev, p, ws.table_qkv.view_mut(), normed.view(), Epilogue::Plain)?;
                let qkv = ws.acts[l].qkv.view_mut();
                gather::forward(dev, qkv, at, ws.table_qkv.view(), ids, length)?;
            }
        }
        Ok(())
    }

    /// Rows of `last` that the head reads, and how many there are per image.
    pub(super) fn read_rows(&self) -> (std::ops::Range<usize>, usize) {
        let read = &self.layout.read;
        if self.limit_last { (0..read.len(), read.len()) } else { (read.clone(), self.layout.max_tokens()) }
    }

    fn head_forward(&mut self, dev: &Device, batch: usize, c: usize) -> Result<()> {
        let (read, rows) = self.read_rows();
        let (p, ws, classes) = (&self.params, &mut self.ws, self.setup.classes);
        ws.normed.reshape([batch * rows, c]);
        ws.norm_stats.reshape([batch * rows, 2]);
        for tensor in [&mut ws.pooled, &mut ws.features] {
            tensor.reshape([batch, c]);
        }
        ws.logits.reshape([batch, classes]);
        /* 1 */
        let last = ws.last.view().reshaped([batch * rows, c]);
        self.vit.norm.forward(dev, p, ws.normed.view_mut(), ws.norm_stats.view_mut(), last)?;
        /* 2 */
        let normed = ws.normed.view().reshaped([batch, rows, c]);
        pool_tokens::forward(dev, ws.pooled.view_mut(), normed, read, pool_tokens::Pooling::Mean)?;
        /* 3 */
        let features = if self.setup.norm_pre_logits {
            row_norm::forward(dev, ws.features.view_mut(), ws.pooled.view(), Normalization::Plus)?;
            ws.features.view()
        } else {
            ws.pooled.view()
        };
        /* 4 */
        if let Some(head) = &mut self.cosine_head {
            head.forward(dev, p, ws.logits.view_mut(), features)?;
            return scale_in_place(dev, ws.logits.view_mut(), 1.0 / self.setup.temperature);
        }
        match self.prompts.heads() {
            Heads::One => self.head.forward(dev, p, ws.logits.view_mut(), features, Epilogue::Plain)?,
            Heads::Domain(domain) => {
                let head = self.head.other(domain);
                head.forward(dev, p, ws.logits.view_mut(), features, Epilogue::Plain)?;
            }
            Heads::Each(domains) => {
                // Every head that an image uses answers for all images; row d B + b is what head d says of image b.
                let used = domains.iter().max().map_or(0, |last| *last as usize + 1);
                ws.all_logits.reshape([used * batch, classes]);
                for domain in (0..used).filter(|&domain| domains.contains(&(domain as u32))) {
                    let part = ws.all_logits.view_mut().part(domain * batch * classes, [batch, classes]);
                    self.head.other(domain).forward(dev, p, part, features, Epilogue::Plain)?;
                }
                let rows: Vec<u32> =
                    (0..).zip(domains).map(|(b, domain)| domain * batch as u32 + b).collect();
                ws.logit_rows.reshape([batch, 1]);
                ws.logit_rows.view_mut().write(&rows)?;
                let logits = ws.logits.view_mut().reshaped([batch, 1, classes]);
                gather::forward(dev, logits, 0, ws.all_logits.view(), ws.logit_rows.view(), 1)?;
            }
        }
        scale_in_place(dev, ws.logits.view_mut(), 1.0 / self.setup.temperature)
    }
}

/// table = rows of prompts, with the class token's position embedding where prompts carry it.
pub(super) fn fill_table(dev: &Device, table: &mut Tensor, rows: View, position: Option<View>) -> Result<()> {
    table.reshape(rows.shape());
    table.fill(0.0);
    axpy(dev, table.view_mut(), rows, 1.0)?;
    match position {
        Some(position) => tokens::add_row_in_place(dev, table.view_mut(), position),
        None => Ok(()),
    }
}

//! The prompted network backwards: from the gradient of the logits to those of everything that learns.

use super::forward::fill_table;
use super::*;

impl Model {
    pub(super) fn head_backward(&mut self, dev: &Device, batch: usize, c: usize) -> Result<()> {
        let (read, rows) = self.read_rows();
        let (p, grads, ws) = (&self.params, &mut self.grads, &mut self.ws);
        for tensor in [&mut ws.dfeatures, &mut ws.dpooled] {
            tensor.reshape([batch, c]);
        }
        /* 4 */
        let scale = self.setup.loss_scale();
        scale_in_place(dev, ws.dlogits.view_mut(), scale / self.setup.temperature)?;
        let dlogits = ws.dlogits.view();
        let features = if self.setup.norm_pre_logits { &ws.features } else { &ws.pooled };
        let head = match self.prompts.heads() {
            Heads::Domain(domain) => self.head.other(domain),
            // Steps have one head for all images.
            Heads::One | Heads::Each(_) => self.head,
        };
        match &mut self.cosine_head {
            Some(head) => {
                head.backward(dev, p, grads, ws.dfeatures.view_mut(), dlogits, features.view())?;
            }
            None => {
                head.backward_params_acc(dev, p, grads, features.view(), dlogits, None)?;
                head.backward_input(dev, p, ws.dfeatures.view_mut(), dlogits, None, Write::Set)?;
            }
        }
        /* 3 */
        if self.setup.norm_pre_logits {
            ws.dpooled.fill(0.0);
            let (dy, x) = (ws.dfeatures.view(), ws.pooled.view());
            row_norm::backward_acc(dev, ws.dpooled.view_mut(), dy, x, Normalization::Plus)?;
        } else {
            std::mem::swap(&mut ws.dpooled, &mut ws.dfeatures);
        }
        /* 2 */
        ws.temp.a.reshape([batch, rows, c]);
        let normed = ws.normed.view().reshaped([batch, rows, c]);
        pool_tokens::backward(dev, ws.temp.a.view_mut(), ws.dpooled.view(), normed, read, Pooling::Mean)?;
        /* 1 */
        ws.d.reshape([batch * rows, c]);
        ws.d.fill(0.0);
        let dy = ws.temp.a.view().reshaped([batch * rows, c]);
        let (x, stats) = (ws.last.view().reshaped([batch * rows, c]), ws.norm_stats.view());
        self.vit.norm.backward_acc(dev, p, grads, Some(ws.d.view_mut()), dy, (x, stats))
    }

    /// What the gradient of layer `l`'s input is needed for.
    fn need(&self, l: usize, shared: bool) -> Option<Need> {
        let (p, grads) = (&self.params, &self.grads);
        let layer = &self.layout.layers[l];
        let tokens = |l: usize| self.prompts.learns(p, grads, l, Place::Tokens);
        let prefix = |l: usize| self.prompts.learns(p, grads, l, Place::Prefix);
        let block = |l: usize| block_wanted(&self.vit.blocks[l], p, grads);
        let adapter = |l: usize| adapter_wanted(&self.vit.blocks[l], p, grads);
        let learns = |l: usize| tokens(l) || prefix(l) || block(l) || adapter(l);
        let below = self.vit.embed_wanted(p, grads) || (0..l).any(learns);
        if below || block(l) {
            return Some(Need::All);
        }
        match (tokens(l), prefix(l)) {
            (true, _) if shared && self.layout.entry == Some(l) => Some(Need::Rows(0..layer.tokens_in)),
            (true, _) => Some(Need::All),
            (false, true) => Some(Need::Nothing),
            (false, false) if adapter(l) => Some(Need::Nothing),
            (false, false) => None,
        }
    }

    /// All gradients, from `dlogits` on.
    pub(super) fn backward(&mut self, dev: &Device, batch: usize, shared: bool) -> Result<()> {
        let c = self.setup.dims.embed_dim;
        self.head_backward(dev, batch, c)?;
        let mut reached_embedding = true;
        for l in (0..self.setup.dims.layers).rev() {
            let Some(need) = self.need(l, shared) else {
                reached_embedding = false;
                break;
            };
            self.backward_block(dev, batch, l, need.clone())?;
            match need {
                Need::All => self.backward_insert(dev, batch, l)?,
                Need::Rows(_) => self.backward_shared_prompts(dev, batch, l)?,
                Need::Nothing => {}
            }
            if need != Need::All {
                reached_embedding = false;
                break;
            }
        }
        let from_query = self.patch_query().filter(|_| self.vit.embedding.wanted(&self.params, &self.grads));
        let (p, grads, ws) = (&self.params, &mut self.grads, &mut self.ws);
        let [dpatches, dpatches_query] = &mut ws.dpatches;
        let dquery = from_query.map(|_| &mut ws.dquery);
        self.prompts.backward_loss_term(dev, p, grads, self.setup.loss_scale(), ws.query.view(), dquery)?;
        let mut extra = None;
        if let Some(kind) = from_query {
            let (patches, n) = (ws.embedded.patches.view(), self.setup.dims.patches());
            dpatches_query.reshape([batch, n, c]);
            pool_tokens::backward(dev, dpatches_query.view_mut(), ws.dquery.view(), patches, 0..n, kind)?;
            extra = Some(dpatches_query.view());
        }
        if reached_embedding && self.vit.embed_wanted(p, grads) {
            let dx = ws.d.view().reshaped([batch, self.setup.dims.tokens(), c]);
            let of = EmbedBackward { dx, extra, embedded: &ws.embedded, dpatches };
            self.vit.backward_embed(dev, p, grads, of)?;
        }
        Ok(())
    }

    fn backward_block(&mut self, dev: &Device, batch: usize, l: usize, need: Need) -> Result<()> {
        let (layer, c) = (&self.layout.layers[l], self.setup.dims.embed_dim);
        let (p, grads, ws) = (&self.params, &mut self.grads, &mut self.ws);
        let has_prefix = layer.prefix_rows > 0;
        let [dk, dv] = &mut ws.dprefix;
        if has_prefix {
            dk.reshape([batch, layer.prefix_rows, c]);
            dv.reshape([batch, layer.prefix_rows, c]);
        }
        let [k, v] = &ws.prefixes[l];
        let prefix = has_prefix.then(|| Prefix { k: k.view(), v: v.view() });
        let dprefix = has_prefix.then(|| PrefixMut { k: dk.view_mut(), v: dv.view_mut() });
        let saved = SavedBlock { x: &ws.xs[l], acts: &ws.acts[l], prefix };
        let out = BlockGrads { params: grads, d: &mut ws.d, prefix: dprefix };
        self.vit.blocks[l].backward(Tools { dev, p, temp: &mut ws.temp }, &saved, out, need)?;
        if has_prefix { self.prompts.backward_prefix(dev, p, grads, l, &ws.dprefix) } else { Ok(()) }
    }

    /// From dL/dx of layer `l` in `d` to the gradients of its prompts, leaving in `d` the gradient
    /// of the tokens behind them.
    fn backward_insert(&mut self, dev: &Device, batch: usize, l: usize) -> Result<()> {
        let (layer, c) = (&self.layout.layers[l], self.setup.dims.embed_dim);
        if layer.tokens_in == 0 {
            return Ok(());
        }
        let (p, grads, ws) = (&self.params, &mut self.grads, &mut self.ws);
        let d = ws.d.view().reshaped([batch, layer.tokens, c]);
        for (i, rows) in self.prompts.token_rows(p, l, batch).into_iter().enumerate() {
            if let Some(dtable) = self.prompts.token_rows_grad(p, grads, l, i) {
                gather::backward_acc(dev, dtable, d, rows.at, rows.ids, rows.length)?;
            }
        }
        if self.setup.token_order == TokenOrder::ClsFirst
            && let Some(dpositions) = grads.get_mut(p, self.vit.positions)
        {
            let rows = &mut ws.dprompt_rows;
            rows.reshape([layer.tokens_in, c]);
            rows.fill(0.0);
            tokens::sum_images_acc(dev, rows.view_mut(), d, 0..layer.tokens_in)?;
            sum::columns_acc(dev, dpositions.part(0, [c]), rows.view())?;
        }
        let before = layer.tokens - layer.tokens_in;
        ws.stage.reshape([batch, before, c]);
        tokens::copy(dev, ws.stage.view_mut(), 0, d, layer.tokens_in..layer.tokens, Write::Set)?;
        std::mem::swap(&mut ws.d, &mut ws.stage);
        Ok(())
    }

    /// The rest of the entry layer's backward pass, once per pool row instead of once per image:
    /// norm and projection act on each row alone, so their gradients may be summed first.
    fn backward_shared_prompts(&mut self, dev: &Device, batch: usize, l: usize) -> Result<()> {
        let (layer, c) = (&self.layout.layers[l], self.setup.dims.embed_dim);
        let (p, grads, ws) = (&self.params, &mut self.grads, &mut self.ws);
        let block = &self.vit.blocks[l];
        let d = ws.d.view().reshaped([batch, layer.tokens, c]);
        for (i, rows) in self.prompts.token_rows(p, l, batch).into_iter().enumerate() {
            let TokenRows { table, at, ids, length } = rows;
            let n = table.dims()[0];
            for (tensor, width) in [(&mut ws.dtable, c), (&mut ws.dtable_qkv, 3 * c)] {
                tensor.reshape([n, width]);
                tensor.fill(0.0);
            }
            gather::backward_acc(dev, ws.dtable.view_mut(), d, at, ids, length)?;
            let dqkv = ws.temp.dqkv.view();
            gather::backward_acc(dev, ws.dtable_qkv.view_mut(), dqkv, at, ids, length)?;
            // The table and its statistics again: the forward pass may have used them for more parts.
            let cls_first = self.setup.token_order == TokenOrder::ClsFirst;
            let position = cls_first.then(|| p.get(self.vit.positions).part(0, [c]));
            fill_table(dev, &mut ws.table, table, position)?;
            ws.table_stats.reshape([n, 2]);
            ws.table_normed.reshape([n, c]);
            let (normed, stats) = (&mut ws.table_normed, ws.table_stats.view_mut());
            block.ln1.forward(dev, p, normed.view_mut(), stats, ws.table.view())?;
            // From here it holds the gradient of what it was.
            let dnormed = ws.table_normed.view_mut();
            block.qkv.backward_input(dev, p, dnormed, ws.dtable_qkv.view(), None, Write::Set)?;
            let (x, stats, scale) = (ws.table.view(), ws.table_stats.view(), p.get(block.ln1.scale));
            layer_norm::backward_input_acc(
                dev,
                ws.dtable.view_mut(),
                ws.table_normed.view(),
                x,
                stats,
                scale,
            )?;
            if let Some(grad) = self.prompts.token_rows_grad(p, grads, l, i) {
                axpy(dev, grad, ws.dtable.view(), 1.0)?;
            }
        }
        Ok(())
    }
}

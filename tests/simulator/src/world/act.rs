//! What each action does, and what the model may expect after it.

use super::*;

impl World<'_> {
    pub(super) fn act(&mut self, action: &Action) {
        let now = self.nats.state.lock().now();
        match action {
            Action::Publish { account, key, size, count } => {
                for _ in 0..*count {
                    self.publish(*account, key, *size);
                }
                return;
            }
            Action::Repeat { count } => {
                let Some((key, id, body)) = self.repeatable.clone() else { return };
                for _ in 0..*count {
                    self.publish_to_queue(&key, id, &body);
                }
                return;
            }
            Action::Connect { client, edge, is_fresh } => {
                if self.model.lock().clients[*client].session.is_some() {
                    return;
                }
                if *is_fresh {
                    let mut model = self.model.lock();
                    let own = &mut model.clients[*client];
                    own.threads.clear();
                    own.must_resume = false;
                }
                return self.connect(*client, *edge);
            }
            Action::StopEdge { edge } => return self.stop_edge(*edge),
            Action::StartEdge { edge } => return self.start_edge(*edge),
            Action::StartIngest { ingest } => return self.start_ingest(*ingest),
            _ => {}
        }
        let mut model = self.model.lock();
        match action {
            Action::Leave { client } => return model.leave(*client),
            Action::Read { client, is_reading } => return model.read(*client, *is_reading),
            Action::Ping { client } => return model.ask(*client, Asked::Ping, now),
            Action::Unsubscribe { client, binding } => {
                if !model.clients[*client].must_resume {
                    model.ask(*client, Asked::Unsubscribe { bindings: vec![binding.clone()] }, now);
                }
                return;
            }
            Action::Subscribe { client, bindings, since } => {
                let own = &model.clients[*client];
                if own.must_resume {
                    return;
                }
                let since = match since {
                    Wanted::Now => Since::Now,
                    Wanted::Ago(seconds) => Since::Ago(*seconds),
                    Wanted::Earlier(share) => {
                        let index = (own.cursors.len() as f64 * share) as usize;
                        let Some(position) = own.cursors.get(index) else { return };
                        Since::Cursor(position.clone())
                    }
                };
                return model.ask(*client, Asked::Subscribe { bindings: bindings.clone(), since }, now);
            }
            _ => {}
        }
        model.say(|| format!("{action:?}"));
        match action {
            Action::Delete => {
                model.may_miss = true;
                // The ingest makes it anew when it likes.
                model.may_double |= model.has_ingest;
                model.may_be_late |= model.has_ingest;
            }
            Action::Refuse { .. } | Action::MaxSubscriptions { .. } => model.may_refuse = true,
            Action::Elect { .. } | Action::Server { .. } | Action::Cut { .. } if self.plan.servers > 1 => {
                model.may_be_late = true;
                // Positions are not compared where the stream is replicated.
                model.may_reorder = true;
            }
            Action::Purge { .. } => (model.may_miss, model.was_cut_short) = (true, true),
            // What is lost leaves room, as if nothing had been dropped for want of it.
            Action::Lose { .. } => {
                model.may_miss = true;
                model.was_cut_short |= self.plan.max_bytes < 1 << 30;
            }
            Action::Create => (model.may_double, model.may_be_late) = (true, true),
            Action::Jump { seconds } => {
                model.has_jumped = true;
                model.may_miss = true;
                model.jumped += Duration::from_secs(*seconds);
            }
            _ => {}
        }
        drop(model);
        match action {
            Action::StopIngest { ingest } => self.ingests[*ingest] = None,
            Action::FreezeIngest { ingest, is_frozen } => {
                self.ingests[*ingest].iter().for_each(|ingest| ingest.freeze(*is_frozen));
            }
            Action::DisconnectBroker { ingest } => {
                self.rabbitmq.change(|broker| broker.disconnect(Some(*ingest)));
            }
            Action::StallBroker { ingest, is_stalled } => {
                self.rabbitmq.change(|broker| broker.stall(Some(*ingest), *is_stalled));
            }
            Action::RabbitMq { is_up } => self.rabbitmq.change(|broker| broker.set_up(*is_up)),
            Action::Alarm { is_on } => self.rabbitmq.change(|broker| broker.alarm(*is_on)),
            _ => {}
        }
        let lost = self.nats.change(|cluster| {
            match action {
                Action::Disconnect { owner } => cluster.disconnect(Some(*owner)),
                Action::Stall { owner, is_stalled } => cluster.stall(*owner, *is_stalled),
                Action::Purge { keep } => {
                    if let Some(stream) = &mut cluster.stream {
                        stream.purge(*keep);
                    }
                }
                Action::Delete => cluster.delete(),
                Action::Lose { count } => return cluster.lose(*count),
                Action::Jump { seconds } => cluster.jump(Duration::from_secs(*seconds)),
                Action::Server { server, is_up } => cluster.set_up(*server, *is_up),
                Action::FreezeServer { server, is_frozen } => cluster.freeze(*server, *is_frozen),
                Action::Cut { one, other, is_cut } => cluster.set_cut(*one, *other, *is_cut),
                Action::Elect { is_stale } => cluster.elect(*is_stale),
                Action::SlowAnswers { millis } => cluster.answer_delay = Duration::from_millis(*millis),
                Action::Refuse { account, binding } => {
                    cluster.refused.insert(subject(&self.subjects.event(), *account, binding));
                }
                Action::MaxSubscriptions { count } => cluster.max_subscriptions = *count,
                Action::Full { is_full } => cluster.is_full = *is_full,
                _ => {}
            }
            Vec::new()
        });
        let mut model = self.model.lock();
        model.losses += u64::from(matches!(action, Action::Lose { .. }));
        lost.iter().for_each(|message| model.lost(message));
        if matches!(action, Action::Delete) {
            model.deleted();
        }
        if matches!(action, Action::Create) {
            drop(model);
            self.create();
        }
    }
}

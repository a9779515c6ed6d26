#!/bin/sh
# Changes one line of the product at a time, in a copy, and expects the simulation to report a broken promise. For a change that
# no seed reaches in so short a time, the unit tests of the changed crate must fail. A FROM text that no longer occurs fails,
# too, so the list cannot go stale. The copy is built apart from the product.
#   ONLY=no-gate tests/mutations.sh     runs this mutation only
set -eu
cd "$(dirname "$0")/.."
root=$PWD
copy=$root/target/mutations
failed=0
tried=0

# NAME FILE FROM TO: literal text that occurs once in FILE.
mutate() {
    [ "${ONLY:-$1}" = "$1" ] || return 0
    tried=$((tried + 1))
    rm -rf "$copy/src" "$copy/crates" "$copy/samples" "$copy/benches" "$copy/tests" "$copy/config"
    mkdir -p "$copy/tests"
    cp -r "$root/src" "$root/crates" "$root/samples" "$root/benches" "$copy/"
    cp -r "$root/tests/simulation" "$copy/tests/simulation"
    cp -r "$root/config" "$copy/"
    cp "$root/Cargo.lock" "$copy/"
    cp "$root/Cargo.toml" "$copy/"
    if [ "$(grep -cF -- "$3" "$copy/$2")" != 1 ]; then
        echo "$1: '$3' does not occur once in $2"
        failed=1
        return
    fi
    FROM=$3 TO=$4 awk '
        (at = index($0, ENVIRON["FROM"])) {
            $0 = substr($0, 1, at - 1) ENVIRON["TO"] substr($0, at + length(ENVIRON["FROM"]))
        }
        { print }' "$root/$2" > "$copy/$2"
    log=$copy/$1.log
    case $2 in
        crates/*/*) package=${2#crates/} package=${package%%/*} ;;
        *) package=outboxd ;;
    esac
    if ! in_copy --package outboxd --test simulation -- every_promise_holds_under_every_seed > "$log" 2>&1 && grep -q '^seed ' "$log"; then
        echo "$1: caught by $(grep -m1 '^seed ' "$log")"
    elif ! grep -q '^test result: ok' "$log"; then
        echo "$1: was not built, see $log"
        failed=1
    elif ! in_copy --package "$package" --lib > "$log" 2>&1 && grep -q '^test .* FAILED$' "$log"; then
        echo "$1: caught by $(grep -m1 '^test .* FAILED$' "$log")"
    else
        echo "$1: SURVIVED, see $log"
        failed=1
    fi
}

in_copy() {
    (cd "$copy" && FIRST_SEED=${FIRST_SEED:-1} SEEDS=${SEEDS:-2000} CARGO_TARGET_DIR="$copy/target" cargo test --locked "$@")
}

mutate acknowledge-unsettled src/ledger/mod.rs \
    'Some(last) => last.watermark = last.watermark.max(Some(lsn)),' 'Some(_) => self.advance(lsn),'
mutate settle-out-of-order src/ledger/mod.rs \
    'while let Some(Entry { state: EntryState::Settled, .. }) = self.entries.front() {' 'while self.entries.iter().any(|e| matches!(e.state, EntryState::Settled)) {'
mutate no-gate src/ledger/mod.rs \
    '(Ordering::PerAggregate, Some(aggregate)) => self.last_of.insert(aggregate, tag),' '(Ordering::PerAggregate, Some(aggregate)) => self.last_of.insert(aggregate, tag).filter(|_| false),'
mutate rows-of-a-transaction-pass-each-other src/ledger/mod.rs \
    'let mut waits_for = u8::from(self.entries.back().is_some_and(|last| last.leads(&item)));' 'let mut waits_for = 0;'
mutate forget-what-was-settled-ahead src/ledger/mod.rs \
    'Settled { progress: self.progress, ahead }' 'let _: BTreeSet<Position> = ahead; Settled { progress: self.progress, ahead: BTreeSet::new() }'
mutate trust-a-server-that-lacks-what-was-settled-ahead src/ledger/progress.rs \
    'position.max(self.ahead.last().copied()).map' 'position.map'
mutate skip-a-row-on-resume src/ledger/mod.rs \
    'self.progress.position.is_some_and(|settled| position <= settled)' 'self.progress.position.is_some_and(|settled| position.commit_lsn <= settled.commit_lsn)'
mutate repeat-settled-rows src/ledger/mod.rs \
    'self.progress.position.is_some_and(|settled| position <= settled)' 'self.progress.position.is_some_and(|settled| position < settled)'
mutate unlimited-bytes src/ledger/mod.rs \
    ' && self.bytes < limits.bytes' ''
mutate one-message-too-many src/ledger/mod.rs \
    'self.entries.len() < limits.messages' 'self.entries.len() <= limits.messages'
mutate count-a-return-as-delivered src/relay/delivery.rs \
    'OnUnroutable::Halt => self.refuse(tag, Refusal::Unroutable),' 'OnUnroutable::Halt => self.drop_unroutable(tag),'
mutate keepalive-within-a-transaction src/relay/pipeline.rs \
    'if self.transaction.is_none() {' 'if true {'
mutate forget-to-tell-postgresql src/relay/pipeline.rs \
    'if self.progressed() { self.options.status_interval } else' 'if false { self.options.status_interval } else'
mutate drain-within-a-transaction src/relay/pipeline.rs \
    'Intake::Draining => !self.is_in_the_middle() && ' 'Intake::Draining => '
mutate publish-while-heard-out src/relay/pipeline.rs \
    'heard = self.delivery.idle() => if heard.is_err() { return },' 'heard = self.delivery.next() => if heard.is_err() { return },'
mutate remove-what-is-not-confirmed src/cleanup/task.rs \
    'self.wait_until_confirmed(&sql, seen.committed_before).await?;' 'self.wait_until_confirmed(&sql, Lsn::ZERO).await?;'
mutate trust-a-promoted-server src/relay/supervisor/carryover.rs \
    '&& *before != server' '&& before.0 != server.0'
mutate trust-a-server-set-back src/relay/supervisor/carryover.rs \
    'self.settled.reaches().filter(|settled| *settled > end)' 'self.settled.reaches().filter(|_| false)'
mutate take-the-slot-back src/relay/supervisor/attempt.rs \
    'delivery.advance_watermark(flushed);' 'let _ = flushed;'
mutate make-a-slot-silently src/slot/continuity/mod.rs \
    'return gap(cause, baseline.confirmed);' 'let _ = cause; return Ok(Continuity::First);'
mutate take-a-slot-made-anew src/slot/continuity/mod.rs \
    'if at_most.is_some_and(|at_most| flush > Some(at_most)) {' 'if at_most.is_some_and(|_| false) {'
mutate overlook-a-slot-made-anew-before-a-promotion src/slot/continuity/mod.rs \
    'baseline.at_most.into_iter().chain(left).min()' 'left.or(baseline.at_most)'
mutate forget-a-recorded-gap src/slot/continuity/mod.rs \
    'Some(SlotRecord { gap: Some(gap), confirmed_flush, confirmed_until, .. }) => Err(Gap {' 'Some(SlotRecord { gap: Some(gap), confirmed_flush, confirmed_until, .. }) if false => Err(Gap {'
mutate trust-a-record-from-a-dump src/slot/continuity/mod.rs \
    'record.as_written && record.gap.is_none()' 'record.gap.is_none()'
mutate trust-a-server-without-record src/slot/continuity/mod.rs \
    'record.map_or(0, |record| record.version) < last_seen.version' 'record.is_some_and(|record| record.version < last_seen.version)'
mutate overlook-a-teardown src/slot/continuity/mod.rs \
    'let torn_down = self.record.as_ref().is_some_and(SlotRecord::is_torn_down);' 'let torn_down = false;'
mutate keep-a-gap-to-oneself src/relay/supervisor/gap.rs \
    'history.to_be_marked(gap, remembered) {' 'history.to_be_marked(gap, remembered).filter(|_| false) {'
mutate publish-without-a-fence src/relay/supervisor/attempt.rs \
    'delivery.fence(&fence_queue(&database.options().slot, &history.server.system_id));' ''
mutate settle-before-parked src/relay/delivery.rs \
    'self.park(tag, row, ParkReason::unroutable(&message));' '{ let _ = (row, &message); self.ledger.parked(tag, crate::position::Lsn::ZERO); }'
mutate store-nothing src/parking/writer.rs \
    'let before = sql.park(database.options(), &rows).await?;' 'let before = sql.park(database.options(), &rows[..0]).await?;'
mutate forget-what-could-not-be-stored src/parking/writer.rs \
    'self.work = Work::Resting { until: now() + self.backoff.next_wait() };' 'self.batch.clear(); self.work = Work::Resting { until: now() + self.backoff.next_wait() };'
mutate trust-a-server-that-lacks-a-parked-row src/ledger/progress.rs \
    'confirmed.map(ConfirmedLsn::lsn).max(settled).max(parked_before)' '{ let _ = parked_before; confirmed.map(ConfirmedLsn::lsn).max(settled) }'
mutate suspects-all-at-once src/ledger/suspects.rs \
    'let limit = if goes_alone { 1 } else { BATCH };' 'let limit = if goes_alone { 1 } else { usize::MAX };'
mutate begin-a-lot-beside-the-last-suspect src/ledger/suspects.rs \
    'published >= limit || self.alone_out.is_some()' 'published >= limit'
mutate send-beside-a-suspect src/ledger/mod.rs \
    'if self.suspects.are_out() {' 'if false {'
mutate send-behind-a-refused-message src/ledger/mod.rs \
    'self.forbidden.first().is_none_or(|forbidden| tag < forbidden)' 'true'
mutate try-all-nacked-at-once src/ledger/nacks.rs \
    '(0, _) => 1,' '(0, _) => BATCH_MAX,'
if [ "$tried" = 0 ]; then
    echo "there is no mutation called $ONLY"
    exit 2
fi
exit $failed

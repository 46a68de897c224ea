//! What must hold of a peer after every step, whatever happened.

use super::super::*;

/// All of a peer but its definition.
pub fn brief(peer: &Peer) -> String {
    let Peer { identity, session, queue, flight, task, markers, deaths, wanted, hold, not_before, doing, .. } = peer;
    let queue: Vec<_> = queue.iter().map(|e| (e.id(), e.not_before, e.due)).collect();
    format!(
        "{identity}: {session:?}\nqueue {queue:?}\nflight {flight:?}\ntask {task:?}\n{markers:?}\ndeaths {deaths:?}\nwanted {wanted:?}, hold {hold:?}, not before {not_before}, doing {doing:?}, next {:?}",
        peer.next_due(0)
    )
}

/// What a peer waits for: time, or an event that has a name here. A peer without an exit is a defect.
pub fn exit(peer: &Peer, now: Millis) -> &'static str {
    if peer.doing.is_some() {
        return "the outcome of an act";
    }
    if peer.promised {
        return "the outcome of a promise";
    }
    if let Some(due) = peer.next_due(now) {
        assert!(due >= now);
        return "time";
    }
    if peer.draining || peer.resting {
        return "the next daemon";
    }
    if peer.frozen() {
        return "unfreeze";
    }
    match &peer.session {
        Session::None => sleeper(peer, now),
        Session::Up(up) if up.ready_at.is_none() => panic!("it starts, and nobody looks: {}", brief(peer)),
        Session::Up(_) if peer.retired.is_some() => panic!("a peer no more whose session never ends: {}", brief(peer)),
        Session::Up(_) if peer.flight.is_some() => panic!("its delivery goes nowhere: {}", brief(peer)),
        Session::Up(_) if peer.deliverable(now).is_some() => panic!("its mail goes nowhere: {}", brief(peer)),
        Session::Up(up) if up.turn != Turn::Idle => "the end of its turn",
        Session::Up(up) if up.trouble.is_some() && !peer.queue.is_empty() => "start, or a turn",
        Session::Up(_) => "mail",
        _ => panic!("nothing is done about the end of its session: {}", brief(peer)),
    }
}

fn sleeper(peer: &Peer, now: Millis) -> &'static str {
    assert!(peer.flight.is_none(), "it sleeps over a delivery: {}", brief(peer));
    if !peer.mail_wakes(now) && peer.wanted.is_none() {
        return "mail, or an order";
    }
    match peer.hold {
        _ if peer.markers.stopped => "start",
        _ if peer.retired.is_some() => "its profile",
        Some(Hold::CrashLoop | Hold::MissingBinary | Hold::ProfileInvalid | Hold::Login) => "start",
        _ => panic!("it never wakes: {}", brief(peer)),
    }
}

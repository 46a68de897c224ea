//! Foreign things that cannot be moved, and pairs that no operation of ours makes.

use crate::sim::SimDisk;
use crate::workload::{claim_of, message, queue};
use iapeer::core::record;
use iapeer::ports::disk::Disk;
use iapeer::store::mailbox::Mailbox;

fn mailbox(disk: &SimDisk, messages: std::ops::Range<usize>) -> Mailbox {
    let mut mailbox = Mailbox::open(disk, queue()).unwrap();
    for n in messages {
        let seq = mailbox.take_seq(disk).unwrap();
        mailbox.enqueue(disk, &message(n, seq, false)).unwrap();
    }
    mailbox
}

#[test]
fn a_foreign_thing_that_cannot_be_moved_does_not_close_the_mailbox() {
    let disk = SimDisk::new(Default::default());
    mailbox(&disk, 1..3);
    for folder in ["tmp", "new", "cur"] {
        disk.plant(&queue().join(folder).join("mount-point"), b"", true);
    }
    for _ in 0..2 {
        let scan = Mailbox::open(&disk, queue()).unwrap().scan(&disk).unwrap();
        assert_eq!(scan.waiting.len(), 2);
        assert_eq!(scan.quarantined.len(), 2, "{:?}", scan.quarantined);
        assert!(scan.quarantined.iter().all(|(_, why)| why.contains("cannot be moved")), "{:?}", scan.quarantined);
    }
}

#[test]
fn a_second_record_of_one_message_is_put_aside() {
    for claimed in [false, true] {
        let disk = SimDisk::new(Default::default());
        let mailbox = mailbox(&disk, 1..3);
        let first = message(1, 1, false);
        if claimed {
            mailbox.claim(&disk, &first.entry().key, claim_of(&first.id)).unwrap();
            disk.plant(&queue().join("new").join(first.entry().key.file_name()), &record::encode(&first), false);
        }
        let copy = message(1, 50, false);
        disk.plant(&queue().join("new").join(copy.entry().key.file_name()), &record::encode(&copy), false);
        let scan = mailbox.scan(&disk).unwrap();
        let waiting: Vec<u64> = scan.waiting.iter().map(|e| e.key.seq).collect();
        assert_eq!(waiting, if claimed { vec![2] } else { vec![1, 2] }, "the first one counts");
        assert_eq!(scan.quarantined.len(), 1 + usize::from(claimed), "{:?}", scan.quarantined);
        let again = mailbox.scan(&disk).unwrap();
        assert!(again.quarantined.is_empty() && again.waiting == scan.waiting, "once");
    }
}

#[test]
fn what_a_killed_daemon_was_writing_is_swept_and_nobody_is_told() {
    let disk = SimDisk::new(Default::default());
    mailbox(&disk, 1..2);
    for path in ["cur/.1-x.msg.claim.7.0.tmp", ".seq.7.1.tmp", "tmp/half"] {
        disk.plant(&queue().join(path), b"{\"v\":", false);
    }
    let scan = Mailbox::open(&disk, queue()).unwrap().scan(&disk).unwrap();
    assert!(scan.quarantined.is_empty(), "{:?}", scan.quarantined);
    assert_eq!(disk.list(&queue()).unwrap().len(), 8, "seven folders and the counter");
}

#[test]
fn putting_aside_twice_overwrites_nothing() {
    let disk = SimDisk::new(Default::default());
    let mailbox = mailbox(&disk, 1..2);
    let key = message(1, 1, false).entry().key;
    mailbox.claim(&disk, &key, claim_of(&key.id)).unwrap();
    mailbox.put_aside(&disk, &key).unwrap();
    disk.plant(&queue().join("new").join(key.file_name()), b"another", false);
    mailbox.scan(&disk).unwrap();
    assert_eq!(disk.list(&queue().join("corrupt")).unwrap().len(), 2);
    assert!(disk.list(&queue().join("cur")).unwrap().is_empty(), "its claim went with it");
}

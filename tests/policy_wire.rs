//! The wire form: frozen bytes, no heap, and no bytes that get past the check.

#[path = "common/heap.rs"]
mod heap;
#[path = "common/policy.rs"]
mod policy;

use heap::allocations;
use policy::{any_policy, maximal};
use proptest::prelude::*;
use returnpath::policy::wire::{self, Error, MAX_ENCODED, ReadError};
use returnpath::policy::{Invalid, Key, Mac, Name, Network, Path, Policy, Reason, Service, toml};
use serde::Serialize;
use std::path::PathBuf;

fn encode(policy: &Policy) -> Vec<u8> {
    let mut image = vec![0; MAX_ENCODED];
    let len = wire::encode(policy, &mut image).unwrap();
    image.truncate(len);
    image
}

fn decode(image: &[u8]) -> Result<Box<Policy>, Error> {
    let mut policy = Box::new(Policy::new());
    wire::decode(image, &mut policy).map(|()| policy)
}

/// Head, `body` and a CRC that matches both, of version 1.
fn image(body: &[u8]) -> Vec<u8> {
    image_of_version(1, body)
}

fn image_of_version(version: u8, body: &[u8]) -> Vec<u8> {
    let mut image = [&wire::MAGIC, [version].as_slice(), body].concat();
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&image);
    image.extend(crc.to_le_bytes());
    image
}

/// An image whose body is the postcard of `value`.
fn image_of(value: &impl Serialize) -> Vec<u8> {
    let mut body = vec![0; 1 << 20];
    image(postcard::to_slice(value, &mut body).unwrap())
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/policy").join(name)
}

/// A small valid path to break.
fn path(name: &str) -> Path {
    let mut path = Path::new(name.try_into().unwrap(), 0x2, 200);
    path.gateway4 = Some([10, 0, 0, 2].into());
    path.source_macs.push(Mac([0x52, 0x54, 0, 0xc2, 0xa5, 0x43])).unwrap();
    path
}

/// Each of the lowest version that can say it.
#[test]
fn versions_1_and_2_are_frozen() {
    let sources =
        [("seed.toml", 1), ("full.toml", 1), ("tunnel.toml", 1), ("empty.toml", 1), ("auto.toml", 2)];
    for (source, version) in sources {
        let text = std::fs::read_to_string(golden(source)).unwrap();
        let policy = toml::parse(source, &text).unwrap();
        let frozen = std::fs::read(golden(source).with_extension("bin")).unwrap();
        assert!(
            encode(&policy) == frozen,
            "{source} no longer encodes to its frozen image: bump the version instead"
        );
        assert!(decode(&frozen).unwrap() == policy, "{source}: bump the version instead");
        assert_eq!(frozen[4], version, "{source}");
    }
    // The largest image by its length and CRC: 300 kB that no one would read.
    let largest = encode(&maximal());
    let crc = largest.last_chunk().copied().map(u32::from_le_bytes);
    assert_eq!((largest.len(), crc), (MAX_ENCODED, Some(LARGEST_CRC)), "bump the version instead");
}

/// CRC of the largest image of version 1.
const LARGEST_CRC: u32 = 0x8704_da63;

#[test]
fn the_largest_policy_is_valid_and_just_fits() {
    let policy = maximal();
    policy.check().unwrap();
    let image = encode(&policy);
    assert_eq!(image.len(), MAX_ENCODED);
    assert!(decode(&image).unwrap() == policy);
    let mut short = vec![0; MAX_ENCODED - 1];
    assert_eq!(wire::encode(&policy, &mut short), Err(wire::NoRoom));
}

#[test]
fn no_policy_of_version_2_is_larger() {
    let mut policy = maximal();
    for at in (0..policy.paths.len()).rev() {
        policy.paths[at].auto_macs = true;
        policy.paths[at].source_macs.pop();
        let len = encode(&policy).len();
        assert!(len < MAX_ENCODED, "{len} bytes with {at} paths without auto");
    }
    // Some gateways are those of several paths, which their ports tell apart.
    assert!(decode(&encode(&policy)).unwrap() == policy);
}

#[test]
fn any_smaller_buffer_is_refused() {
    let policy = toml::parse("", &std::fs::read_to_string(golden("seed.toml")).unwrap()).unwrap();
    let len = encode(&policy).len();
    for room in 0..len {
        assert_eq!(wire::encode(&policy, &mut vec![0; room]), Err(wire::NoRoom));
    }
}

#[test]
fn decoding_needs_no_heap() {
    let mut policy = Box::new(Policy::new());
    let largest = encode(&maximal());
    assert_eq!(allocations(|| drop(Box::new(1))), 1, "the counter counts");
    assert_eq!(allocations(|| wire::decode(&largest, &mut policy).unwrap()), 0);
    for name in ["full.bin", "auto.bin"] {
        let small = std::fs::read(golden(name)).unwrap();
        assert_eq!(allocations(|| wire::decode(&small, &mut policy).unwrap()), 0);
        // Nor do errors, at any depth.
        for end in 0..small.len() {
            let cut = image_of_version(small[4], &small[5..end.max(5)]);
            assert_eq!(allocations(|| drop(wire::decode(&cut, &mut policy))), 0);
        }
    }
    let mut buffer = vec![0; MAX_ENCODED];
    assert_eq!(allocations(|| assert!(wire::encode(&policy, &mut buffer).is_ok())), 0);
    assert_eq!(allocations(|| assert!(wire::read(&largest[..], &mut buffer).is_ok())), 0);
}

#[test]
fn decoding_needs_little_stack() {
    let largest = encode(&maximal());
    let mut policy = Box::new(Policy::new());
    // An overflow kills the test program. An optimised build takes a fraction of it.
    let thread = std::thread::Builder::new().stack_size(STACK);
    let decode = thread.spawn(move || wire::decode(&largest, &mut policy)).unwrap();
    assert_eq!(decode.join().unwrap(), Ok(()));
}

/// Bytes of stack in which an unoptimised decode works, the thread's own needs included.
const STACK: usize = 64 << 10;

#[test]
fn every_flipped_bit_is_noticed() {
    for name in ["seed.bin", "full.bin", "auto.bin"] {
        let image = std::fs::read(golden(name)).unwrap();
        for bit in 0..image.len() * 8 {
            let mut flipped = image.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let expected = match bit / 8 {
                0..4 => Error::Magic,
                4 => Error::Version(flipped[4]),
                _ => Error::Crc,
            };
            assert_eq!(decode(&flipped).unwrap_err(), expected, "{name}, bit {bit}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_noticed() {
    for name in ["seed.bin", "full.bin", "auto.bin"] {
        let image = std::fs::read(golden(name)).unwrap();
        for end in 0..image.len() {
            let expected = if end < 9 { Error::TooShort(end) } else { Error::Crc };
            assert_eq!(decode(&image[..end]).unwrap_err(), expected, "{name}, {end} bytes");
        }
        for extra in [0, 0xff] {
            let longer = [&image[..], &[extra]].concat();
            assert_eq!(decode(&longer).unwrap_err(), Error::Crc);
        }
    }
}

#[test]
fn each_defect_has_its_error() {
    let seed = std::fs::read(golden("seed.bin")).unwrap();
    let body = &seed[5..seed.len() - 4];
    let cases = [
        (vec![], "0 bytes are too few for a policy image"),
        (b"RPOL\x01".to_vec(), "5 bytes are too few for a policy image"),
        (b"# TOML".to_vec(), "not a policy image"),
        (vec![0; MAX_ENCODED + 1], "over 299153 bytes, more than any policy image has"),
        (b"RPOL\x03later".to_vec(), "a policy image of version 3, and this program reads versions 1-2"),
        (b"RPOL\x00earlier".to_vec(), "a policy image of version 0, and this program reads versions 1-2"),
        (image(b""), "the policy image is malformed before its first path"),
        (image(&body[..body.len() - 1]), "the policy image is malformed in path number 1"),
        (image(&[body, b"!"].concat()), "the policy image has 1 bytes after its last path"),
        (image(b"\0\0\0"), "mark_mask: 0 leaves no bit for marks"),
        (image_of_version(2, body), "the policy image is malformed behind its last path"),
        (
            image_of_version(2, &[body, b"\x01"].concat()),
            "the policy image is malformed behind its last path",
        ),
        (
            image_of_version(2, &[body, b"\x01\x01"].concat()),
            "the policy image is malformed behind its last path",
        ),
        (
            image_of_version(2, &[body, b"\x01\x00\x00"].concat()),
            "the policy image has 1 bytes after its last path",
        ),
    ];
    for (image, message) in cases {
        let error = decode(&image).unwrap_err().to_string();
        let (reason, remedy) = error.split_once("; ").expect("a remedy");
        assert_eq!(reason, message);
        assert!(!remedy.is_empty() && !error.contains('\n'));
    }
}

#[test]
fn a_failed_decode_leaves_nothing_behind() {
    let mut policy = maximal();
    wire::decode(b"", &mut policy).unwrap_err();
    assert!(*policy == Policy::new());
    let shared = image_of(&(0xffu32, &[] as &[Network], &[path("a"), path("a")][..]));
    wire::decode(&shared, &mut policy).unwrap_err();
    assert!(*policy == Policy::new());
}

/// A path with one list of another length; postcard writes a tuple as it writes the struct.
fn stretched(macs: usize, ports: usize, services: usize, destinations: usize) -> impl Serialize {
    let network = |at| Network { address: [192, 0, 2, at as u8].into(), prefix: 32 };
    let macs: heapless::Vec<_, 17> = (0..macs).map(|mac| Mac([2, 0, 0, 0, 0, mac as u8])).collect();
    let ports: heapless::Vec<Name, 17> =
        (0..ports).map(|port| format!("eth{port}").as_str().try_into().unwrap()).collect();
    let services: heapless::Vec<_, 65> =
        (0..services).map(|at| format!("tcp/{}", 1 + at).parse::<Service>().unwrap()).collect();
    let destinations: heapless::Vec<_, 17> = (0..destinations).map(network).collect();
    let usual = path("a");
    (
        (usual.name, usual.mark, usual.table, usual.gateway4, usual.gateway6),
        (macs, ports, services, destinations),
        (usual.device, usual.onlink, usual.scope, usual.when_down, usual.priority, usual.log),
    )
}

#[test]
fn every_limit_holds_on_the_wire() {
    let none: &[Network] = &[];
    for [macs, ports, services, destinations] in [[16, 16, 64, 16], [1, 0, 0, 0]] {
        let path = stretched(macs, ports, services, destinations);
        decode(&image_of(&(1u32 << 1, none, &[path][..]))).unwrap();
    }
    for [macs, ports, services, destinations] in [[17, 0, 0, 0], [1, 17, 0, 0], [1, 0, 65, 0], [1, 0, 0, 17]]
    {
        let path = stretched(macs, ports, services, destinations);
        let image = image_of(&(1u32 << 1, none, &[path][..]));
        assert_eq!(decode(&image).unwrap_err(), Error::Body(Some(0)));
    }

    let local = (0..65).map(|at| Network { address: [192, 0, 2, at].into(), prefix: 32 });
    let local: heapless::Vec<_, 65> = local.collect();
    let paths: &[Path] = &[];
    assert_eq!(decode(&image_of(&(1u32, &local, paths))).unwrap_err(), Error::Body(None));
    decode(&image_of(&(1u32, &local[1..], paths))).unwrap();

    let mut paths = maximal().paths.into_iter().collect::<Vec<_>>();
    for path in &mut paths {
        path.source_macs.truncate(1);
        path.ingress.truncate(1);
        path.services.clear();
        path.destinations.clear();
    }
    decode(&image_of(&(u32::MAX, none, &paths[..]))).unwrap();
    paths.push(path("one-too-many"));
    let image = image_of(&(u32::MAX, none, &paths[..]));
    assert_eq!(decode(&image).unwrap_err(), Error::Body(Some(256)));

    // A name of 16 bytes, where the path's own begins.
    let seed = std::fs::read(golden("seed.bin")).unwrap();
    let start = seed.windows(8).position(|bytes| bytes == b"\x07router2").unwrap();
    let long = [&seed[5..start], b"\x10router2-router2-", &seed[start + 8..seed.len() - 4]];
    assert_eq!(decode(&self::image(&long.concat())).unwrap_err(), Error::Body(Some(0)));
}

#[test]
fn an_auto_is_one_of_the_macs() {
    for (macs, is_valid) in [(15, true), (16, false)] {
        let none: &[Network] = &[];
        let body = (2u32, none, &[stretched(macs, 0, 0, 0)][..], &[0u16][..]);
        let mut buffer = vec![0; 1 << 20];
        let image = image_of_version(2, postcard::to_slice(&body, &mut buffer).unwrap());
        let found = decode(&image).map(|policy| policy.paths[0].auto_macs).map_err(|error| error.to_string());
        let line = "path a: source_macs: more than 16 entries with auto; shorten the list".to_owned();
        assert_eq!(found, if is_valid { Ok(true) } else { Err(line) });
    }
}

#[test]
fn what_toml_cannot_say_is_refused_on_the_wire() {
    let broken = |change: &dyn Fn(&mut Path)| {
        let mut paths = [path("a")];
        change(&mut paths[0]);
        let image = image_of(&(0xffu32, &[] as &[Network], &paths[..]));
        decode(&image).unwrap_err().to_string()
    };
    assert_eq!(
        broken(&|path| path.name = Name::new()),
        "path number 1: name: '' is not a path's name; use 1-15 of a-z, 0-9, _ and -"
    );
    assert_eq!(
        broken(&|path| path.name = "a\n\u{e9}".try_into().unwrap()),
        "path a\\n\\u{e9}: name: 'a\\n\\u{e9}' is not a path's name; use 1-15 of a-z, 0-9, _ and -"
    );
    assert_eq!(
        broken(&|path| path.device = Some("\u{1b}[2J".try_into().unwrap())),
        "path a: device: '\\u{1b}[2J' is not a port's name; use 1-15 of A-Z, a-z, 0-9, _, ., @ and -"
    );
    let two = image_of(&(0xffu32, &[] as &[Network], &[path("a"), path("a")][..]));
    assert_eq!(
        decode(&two).unwrap_err(),
        Error::Invalid(Invalid {
            path: Some(1),
            name: "a".try_into().unwrap(),
            key: Key::Name,
            item: None,
            reason: Reason::SharedName("a".try_into().unwrap()),
        })
    );
}

/// A reader that gives `step` bytes at a time, and is interrupted before each.
struct Halting<'a> {
    rest: &'a [u8],
    step: usize,
    ready: bool,
}

impl embedded_io::ErrorType for Halting<'_> {
    type Error = embedded_io::ErrorKind;
}

impl embedded_io::Read for Halting<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error> {
        self.ready = !self.ready;
        if !self.ready {
            return Err(embedded_io::ErrorKind::Interrupted);
        }
        let len = self.step.min(buffer.len()).min(self.rest.len());
        let (now, later) = self.rest.split_at(len);
        buffer[..len].copy_from_slice(now);
        self.rest = later;
        Ok(len)
    }
}

/// A reader that only fails.
struct Broken;

impl embedded_io::ErrorType for Broken {
    type Error = embedded_io::ErrorKind;
}

impl embedded_io::Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> Result<usize, Self::Error> {
        Err(embedded_io::ErrorKind::NotConnected)
    }
}

#[test]
fn reading_fills_the_buffer_and_no_more() {
    let bytes = [1, 2, 3, 4, 5, 6, 7];
    for step in 1..9 {
        let reader = || Halting { rest: &bytes, step, ready: true };
        let mut buffer = [0; 9];
        assert_eq!(wire::read(reader(), &mut buffer), Ok(7));
        assert_eq!(buffer, [1, 2, 3, 4, 5, 6, 7, 0, 0]);
        assert_eq!(wire::read(reader(), &mut buffer[..7]), Ok(7));
        assert_eq!(wire::read(reader(), &mut buffer[..6]), Err(ReadError::TooLong));
        assert_eq!(wire::read(reader(), &mut []), Err(ReadError::TooLong));
    }
    let failed = ReadError::Io(embedded_io::ErrorKind::NotConnected);
    assert_eq!(wire::read(Broken, &mut [0; 9]), Err(failed));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoding_undoes_encoding(policy in any_policy()) {
        prop_assert!(decode(&encode(&policy)).unwrap() == policy);
    }

    /// Damage behind a matching CRC, as from another program or an attacker.
    #[test]
    fn forged_images_are_refused_or_valid(
        policy in any_policy(),
        version in 1u8..=2,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let whole = encode(&policy);
        let mut body = whole[5..whole.len() - 4].to_vec();
        for (at, byte) in edits {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if let Some(cut) = cut {
            body.truncate(cut.index(body.len()));
        }
        accepted_only_if_valid(&image_of_version(version, &body))?;
    }

    #[test]
    fn noise_is_refused_or_valid(
        version in 1u8..=2,
        body in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        prop_assert!(decode(&body).is_err());
        accepted_only_if_valid(&image_of_version(version, &body))?;
    }
}

fn accepted_only_if_valid(image: &[u8]) -> Result<(), TestCaseError> {
    match decode(image) {
        Ok(policy) => {
            prop_assert_eq!(policy.check(), Ok(()));
            prop_assert!(decode(&encode(&policy)).unwrap() == policy);
            let text = toml::render(&policy);
            prop_assert!(toml::parse("forged", &text).unwrap() == policy);
        }
        Err(error) => prop_assert_eq!(error.to_string().lines().count(), 1),
    }
    Ok(())
}

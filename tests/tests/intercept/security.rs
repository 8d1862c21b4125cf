//! Programs on security hooks: in effect as a whole, or left out with the kernel's words, and never in the guard's way.
//!
//! Which of both it is depends on the kernel that runs; what they refuse is tried by `cargo xtask kernels` and, where they are in
//! effect, by the tests of `bypass`.

use chaperone::intercept::{SECURITY_PROGRAMS, secured};

use super::*;

#[test]
fn the_layer_is_whole_or_is_left_out_with_the_kernels_words_and_the_guard_holds_either_way() {
    let world = World::new();
    let features = world.guard().features();
    let layer = features.iter().find(|one| one.name == "security_hooks").unwrap();
    let programs = world.guard().effective();
    let listed = programs.iter().filter(|one| SECURITY_PROGRAMS.contains(&one.name)).count();
    assert!(programs.iter().all(|one| one.effective), "{programs:?}");
    match &layer.refused {
        None => assert!(secured(&programs) && listed == SECURITY_PROGRAMS.len()),
        Some(words) => {
            assert!(words.contains("security hooks") || words.contains("secure_"), "{words}");
            assert_eq!((listed, secured(&programs)), (0, false));
        }
    }
    assert!(world.guard().mend().unwrap().is_empty(), "a layer that was refused is missed");
}

#[test]
fn switched_off_it_is_neither_tried_nor_told_and_leaves_no_pin() {
    let mut world = World::new();
    world.guard = None;
    world.settings.security_hooks = SecurityHooks::Off;
    world.install();
    assert!(world.guard().features().iter().all(|one| one.name != "security_hooks"));
    let generations = fs::read_dir(&world.settings.pin_dir).unwrap().flatten();
    let pins = generations.flat_map(|generation| fs::read_dir(generation.path()).unwrap().flatten());
    assert!(!pins.into_iter().any(|pin| pin.file_name().to_string_lossy().starts_with("secure_")));
}

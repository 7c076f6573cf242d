use super::*;

#[test]
fn an_id_is_one_harmless_path_component() {
    for good in ["a", "task-1_2.3", &"x".repeat(200)] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        ".",
        "..",
        ".hidden",
        "a/b",
        "a b",
        "a:b",
        "a,b",
        "é",
        &"x".repeat(201),
    ] {
        assert!(check_id(bad).is_err(), "{bad}");
    }
}

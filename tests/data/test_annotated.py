"""CelebA, CUB-200-2011, the Oxford pets and flowers in the files that are published: exact small copies."""

import gzip
import io
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from alphaflow import UserError
from alphaflow.data import Images
from alphaflow.data.sources import open_source
from published_sets import jpeg, pack_tar, packed, tar_of, unpack, zip_of


def read_all(source) -> list[bytes]:
    return [source.read(k) for k in range(len(source))]


def worded(source) -> list[str]:
    return [source.class_names[k] for k in source.labels]


# -------------------------------------------------------------------------------------------------------- CelebA

FACES = {f"{k:06}.jpg": jpeg(20 * k) for k in range(1, 7)}
PART = [0, 0, 2, 1, 0, 2]
MALE = [1, -1, -1, 1, -1, 1]
PERSON = [2880, 17, 17, 9, 2880, 100]


def lists(form: str = "txt") -> dict[str, bytes]:
    heads = ["5_o_Clock_Shadow", "Male", "Young"]
    rows = [[name, "-1", str(MALE[k]), str(1 - 2 * (k % 2))] for k, name in enumerate(FACES)]
    if form == "csv":
        attributes = "\n".join(",".join(row) for row in [["image_id", *heads], *rows]) + "\n"
        partition = "image_id,partition\n" + "".join(f"{name},{p}\n" for name, p in zip(FACES, PART))
        return {"list_attr_celeba.csv": attributes.encode(), "list_eval_partition.csv": partition.encode()}
    attributes = f"{len(rows)}\r\n{' '.join(heads)} \r\n" + "".join(
        f"{row[0]} {row[1]:>2} {row[2]:>2} {row[3]:>2}\r\n" for row in rows
    )
    return {
        "list_attr_celeba.txt": attributes.encode(),
        "list_eval_partition.txt": "".join(f"{name} {p}\n" for name, p in zip(FACES, PART)).encode(),
        "identity_CelebA.txt": "".join(f"{name} {p}\n" for name, p in zip(FACES, PERSON)).encode(),
        "list_bbox_celeba.txt": b"1\nimage_id x_1 y_1 width height\n000001.jpg    95  71 226 313\n",
    }


def within(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def celeba(form: str) -> dict[str, bytes]:
    if form == "torchvision":
        return within("celeba", {**within("img_align_celeba", FACES), **lists()})
    if form == "packed":  # as Google Drive has it
        texts = lists()
        partition = {"Eval/list_eval_partition.txt": texts.pop("list_eval_partition.txt")}
        images = zip_of(within("img_align_celeba", FACES))
        return {"Img/img_align_celeba.zip": images, **within("Anno", texts), **partition}
    return {**within("img_align_celeba/img_align_celeba", FACES), **lists("csv")}  # Kaggle's


@pytest.mark.parametrize("form", ["torchvision", "packed", "kaggle"])
def test_celeba(tmp_path: Path, form: str) -> None:
    address = str(unpack(tmp_path, celeba(form)))
    for split, part in (("", 0), ("#train", 0), ("#valid", 1), ("#validation", 1), ("#test", 2)):
        kept = [k for k in range(6) if PART[k] == part]
        source = open_source(address + split)
        assert read_all(source) == [list(FACES.values())[k] for k in kept]
        assert source.labels is None
        assert "the labels 5_o_Clock_Shadow, Male, Young" in source.passed_over[-1]
        assert worded(open_source(address + split, labels="Male")) == [str(MALE[k]) for k in kept]
    assert len(open_source(f"{address}#all")) == 6
    if form != "kaggle":
        source = open_source(f"{address}#all", labels="identity")
        assert source.class_names == ("9", "17", "100", "2880") and worded(source) == [str(p) for p in PERSON]
        source = open_source(f"{address}#test", labels="identity")
        assert source.class_names == ("9", "17", "100", "2880") and source.labels.tolist() == [1, 2]  # as of #all
    with pytest.raises(UserError, match=r"unknown labels of .* 'male': did you mean 'Male'"):
        open_source(address, labels="male")


def test_celebas_zip_with_the_lists_beside_it(tmp_path: Path) -> None:
    unpack(tmp_path, {"img_align_celeba.zip": zip_of(within("img_align_celeba", FACES)), **lists()})
    source = open_source(f"{tmp_path}/img_align_celeba.zip#test", labels="Young")
    assert read_all(source) == [FACES["000003.jpg"], FACES["000006.jpg"]] and worded(source) == ["1", "-1"]
    assert source.name(0).endswith("img_align_celeba.zip!img_align_celeba/000003.jpg")


def test_celeba_as_one_archive_and_with_gaps(tmp_path: Path) -> None:
    files = celeba("torchvision")
    files.pop("celeba/img_align_celeba/000002.jpg")
    files["celeba/img_align_celeba/000009.jpg"] = jpeg(9)
    source = open_source(packed(tmp_path / "faces", files, "tar.gz"))
    assert len(source) == 2 and "1 images that" in " ".join(source.passed_over)
    with pytest.raises(UserError, match=r"list_attr_celeba.txt has no label for 000009.jpg"):
        open_source(f"{tmp_path}/faces.tar.gz#all", labels="Male")
    files["celeba/img_celeba/000003.jpg"] = jpeg(3)  # in the wild: the aligned ones are meant
    assert len(open_source(f"{unpack(tmp_path / 'both', files)}#all")) == 6


def test_a_folder_of_the_lists_alone_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no images"):
        open_source(str(unpack(tmp_path, lists())))


# ----------------------------------------------------------------------------------------------------------- CUB

BIRDS = {
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg": (1, 0),
    "001.Black_footed_Albatross/Black_Footed_Albatross_0009_34.jpg": (1, 1),
    "003.Sooty_Albatross/Sooty_Albatross_0048_1130.jpg": (3, 1),
    "010.Red_winged_Blackbird/Red_Winged_Blackbird_0092_4526.jpg": (10, 1),
    "003.Sooty_Albatross/Sooty_Albatross_0040_796375.jpg": (3, 0),
}
SPECIES = {10: "010.Red_winged_Blackbird", 1: "001.Black_footed_Albatross", 3: "003.Sooty_Albatross"}


def cub() -> dict[str, bytes]:
    rows = list(enumerate(BIRDS.items(), 1))
    files = {
        "images.txt": "".join(f"{k} {name}\n" for k, (name, _) in rows),
        "image_class_labels.txt": "".join(f"{k} {label}\n" for k, (_, (label, _)) in rows),
        "train_test_split.txt": "".join(f"{k} {train}\n" for k, (_, (_, train)) in rows),
        "classes.txt": "".join(f"{k} {name}\n" for k, name in SPECIES.items()),
        "bounding_boxes.txt": "1 60.0 27.0 325.0 304.0\n",
        "attributes/attributes.txt": "1 has_bill_shape::curved\n",
        "README": "about",
    }
    content = {name: text.encode() for name, text in files.items()}
    content |= {f"images/{name}": jpeg(30 * k) for k, (name, _) in rows}
    return {"attributes.txt": b"1 has_bill_shape::curved\n", **within("CUB_200_2011", content)}


@pytest.mark.parametrize("form", ["folder", "inner", "tgz", "zip", "tar"])
def test_cub_200_2011(tmp_path: Path, form: str) -> None:
    address = packed(tmp_path / "CUB_200_2011", cub(), "folder" if form == "inner" else form)
    address += "/CUB_200_2011" * (form == "inner")
    source = open_source(address)
    assert source.class_names == ("001.Black_footed_Albatross", "003.Sooty_Albatross", "010.Red_winged_Blackbird")
    number = {name: k for k, name in enumerate(source.class_names)}
    for split, kept in (("", [1]), ("#train", [1]), ("#test", [0]), ("#all", [0, 1])):
        source = open_source(address + split)
        wanted = {
            jpeg(30 * k): number[SPECIES[label]]
            for k, (label, train) in enumerate(BIRDS.values(), 1)
            if train in kept
        }
        assert dict(zip(read_all(source), source.labels.tolist())) == wanted
    assert open_source(address, labels="none").labels is None
    assert len(Images(address, 8)) == 3


def test_cub_in_other_case_and_its_archive_in_a_folder(tmp_path: Path) -> None:
    files = cub()
    wanted = open_source(str(unpack(tmp_path / "a", files)))
    moved = {
        name.replace("classes.txt", "Classes.TXT").replace(".jpg", ".JPG"): data for name, data in files.items()
    }
    pack_tar(unpack(tmp_path / "c", {"ABOUT": b"text"}) / "CUB_200_2011.tgz", files)
    for address in (unpack(tmp_path / "b", moved), tmp_path / "c"):
        source = open_source(str(address))
        assert source.class_names == wanted.class_names and source.labels.tolist() == wanted.labels.tolist()
        assert read_all(source) == read_all(wanted)


def test_cub_with_segmentations_and_missing_images(tmp_path: Path) -> None:
    files = cub()
    first = next(iter(BIRDS))
    files.pop(f"CUB_200_2011/images/{first}")
    files[f"segmentations/{first.replace('jpg', 'png')}"] = jpeg(1)
    source = open_source(f"{unpack(tmp_path, files)}#test")
    assert len(source) == 1 and "1 of 2 images of" in source.passed_over[1]
    files["CUB_200_2011/image_class_labels.txt"] = b"1 1\n2 77\n3 3\n4 10\n5 3\n"
    with pytest.raises(
        UserError, match=r"image_class_labels.txt gives 001.* the class '77', which is none of the 3"
    ):
        open_source(str(unpack(tmp_path, files)))


# ------------------------------------------------------------------------------------------------ pets and flowers

PETS = {"Abyssinian_100": 1, "american_bulldog_2": 2, "american_bulldog_10": 2, "Bengal_7": 6, "Abyssinian_3": 1}


def pets() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The images, and the annotations, which are two archives."""
    rows = [f"{name} {label} {2 - name[0].isupper()} 1" for name, label in PETS.items()]
    annotations = {
        "list.txt": ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", *rows],
        "trainval.txt": rows[:3],
        "test.txt": rows[3:],
        "README": ["about"],
    }
    texts = {f"annotations/{name}": "\n".join([*lines, ""]).encode() for name, lines in annotations.items()}
    masks = {f"annotations/trimaps/{name}.png": jpeg(1) for name in PETS} | {"annotations/trimaps/._x.png": b""}
    images = {f"images/{name}.jpg": jpeg(40 * k) for k, name in enumerate(PETS)}
    return images | {"images/Abyssinian_100.mat": b"MATLAB"}, texts | masks


@pytest.mark.parametrize("form", ["folder", "packed", "zip"])
def test_pets(tmp_path: Path, form: str) -> None:
    images, annotations = pets()
    if form == "packed":  # as published
        pack_tar(tmp_path / "images.tar.gz", images)
        pack_tar(tmp_path / "annotations.tar.gz", annotations)
        address = str(tmp_path)
    else:
        address = packed(tmp_path / "oxford-iiit-pet", images | annotations, form)
    every = list(PETS)
    for split, kept in (("", every[:3]), ("#trainval", every[:3]), ("#train", every[:3]), ("#test", every[3:])):
        source = open_source(address + split)
        assert source.class_names == ("Abyssinian", "american_bulldog", "Bengal")
        wanted = {images[f"images/{name}.jpg"]: name.rpartition("_")[0] for name in kept}
        assert dict(zip(read_all(source), worded(source))) == wanted
    source = open_source(f"{address}#all", labels="species")
    assert sorted(worded(source)) == ["cat", "cat", "cat", "dog", "dog"]
    if form == "packed":
        assert len(open_source(f"{address}/images.tar.gz#test")) == 2


FLOWERS = [3, 1, 5, 3, 1, 1, 3]  # class 2 and 4 have no image


def flowers() -> tuple[dict[str, bytes], dict[str, bytes]]:
    def mat(**arrays: list[int]) -> bytes:
        file = io.BytesIO()
        savemat(
            file, {name: np.array([values], np.uint16) for name, values in arrays.items()}, do_compression=True
        )
        return file.getvalue()

    images = {f"jpg/image_{k + 1:05}.jpg": jpeg(30 * k) for k in range(7)}
    parts = {"trnid": [7, 2], "valid": [3], "tstid": [1, 5, 4, 6]}
    return images, {"imagelabels.mat": mat(labels=FLOWERS), "setid.mat": mat(**parts)}


@pytest.mark.parametrize("form", ["folder", "packed"])
def test_flowers(tmp_path: Path, form: str) -> None:
    images, mats = flowers()
    unpack(
        tmp_path, {"102flowers.tgz": gzip.compress(tar_of(images)), **mats} if form == "packed" else images | mats
    )
    for split, kept in (("", [2, 7]), ("#valid", [3]), ("#test", [1, 4, 5, 6]), ("#all", range(1, 8))):
        source = open_source(str(tmp_path) + split)
        assert read_all(source) == [jpeg(30 * (k - 1)) for k in kept]
        assert worded(source) == [str(FLOWERS[k - 1]) for k in kept]
        assert source.class_names == tuple("12345")
    if form == "packed":
        assert len(open_source(f"{tmp_path}/102flowers.tgz#test")) == 4


def test_archives_that_torchvision_leaves_beside_what_was_in_them(tmp_path: Path) -> None:
    """Each image counts once, and the line of what was found says what is passed over."""
    images, mats = flowers()
    unpack(tmp_path / "flowers-102", {"102flowers.tgz": gzip.compress(tar_of(images)), **images, **mats})
    source = open_source(f"{tmp_path}/flowers-102#test")
    assert len(source) == 4 and "102flowers.tgz, which is unpacked beside" in source.passed_over
    images, annotations = pets()
    unpack(tmp_path / "pets", {"images.tar.gz": gzip.compress(tar_of(images)), **images, **annotations})
    assert len(open_source(f"{tmp_path}/pets")) == 3
    faces = within("img_align_celeba", FACES)
    unpack(tmp_path / "celeba", {"img_align_celeba.zip": zip_of(faces), **faces, **lists()})
    assert worded(open_source(f"{tmp_path}/celeba#all", labels="Male")) == [str(male) for male in MALE]
    for name in FACES:  # an empty folder is not what was in the zip
        (tmp_path / "celeba/img_align_celeba" / name).unlink()
    assert len(open_source(f"{tmp_path}/celeba#all")) == 6


def test_another_sets_archive_beside_the_flowers_lists(tmp_path: Path) -> None:
    """Caltech-101 numbers its images within each folder, image_0001.jpg: they are not flowers."""
    mats, (_, annotations) = flowers()[1], pets()
    pack_tar(tmp_path / "annotations.tar.gz", annotations)
    caltech = {f"101/{word}/image_{k:04}.jpg": jpeg(20 * k) for word in ("ant", "bass") for k in (1, 2)}
    unpack(tmp_path, {"caltech-101.zip": zip_of(caltech), **mats})
    for address in (f"{tmp_path}/caltech-101.zip", f"{tmp_path}/caltech-101.zip#101"):
        source = open_source(address, labels=None if "#" in address else "none")
        assert len(source) == 4
    assert source.class_names == ("ant", "bass") and source.labels.tolist() == [0, 0, 1, 1]


def test_flowers_that_were_unpacked_twice(tmp_path: Path) -> None:
    images, mats = flowers()
    unpack(tmp_path, images | mats | {f"again/{name}": data for name, data in images.items()})
    with pytest.raises(UserError, match=r"is there twice \(again/jpg/image_00001.jpg, jpg/image_00001.jpg\)"):
        open_source(f"{tmp_path}#all")


def test_flowers_with_more_images_than_labels(tmp_path: Path) -> None:
    images, mats = flowers()
    unpack(tmp_path, images | mats | {"jpg/image_00008.jpg": jpeg(8)})
    with pytest.raises(UserError, match=r"imagelabels.mat has 7 labels, and there is jpg/image_00008.jpg"):
        open_source(f"{tmp_path}#all")
    (tmp_path / "setid.mat").write_bytes(mats["setid.mat"][:150])
    with pytest.raises(UserError, match=r"setid.mat holds no trnid and valid and tstid"):
        open_source(str(tmp_path))

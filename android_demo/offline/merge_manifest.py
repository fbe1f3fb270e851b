"""Merges a flavour's Android manifest into the main one, as far as Gradle's plugin would here.

Usage: merge_manifest.py MAIN FLAVOUR OUT. Attributes of the flavour replace those of the main one;
elements of the same tag and name are merged, others are added.
"""

import sys
import xml.etree.ElementTree as ElementTree

_ANDROID = "http://schemas.android.com/apk/res/android"
_NAMED = ("application", "activity", "service", "provider", "uses-permission")


def _key(element) -> tuple[str, str | None]:
    return element.tag, element.get(f"{{{_ANDROID}}}name")


def _merge(main, flavour) -> None:
    for name, value in flavour.attrib.items():
        main.set(name, value)
    known = {_key(child): child for child in main if child.tag in _NAMED}
    if main.tag == "manifest":
        # There is one application, whatever it is called.
        known[("application", None)] = main.find("application")
    place = 0
    for child in flavour:
        if _key(child) in known:
            _merge(known[_key(child)], child)
        elif child.tag == "uses-permission":
            main.insert(place, child)
            place += 1
        else:
            main.append(child)


def main(main_path: str, flavour_path: str, out: str) -> None:
    """Writes the merged manifest."""
    ElementTree.register_namespace("android", _ANDROID)
    tree = ElementTree.parse(main_path)
    _merge(tree.getroot(), ElementTree.parse(flavour_path).getroot())
    tree.write(out, encoding="utf-8", xml_declaration=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

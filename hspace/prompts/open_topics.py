"""Wording that leaves gender, race or age open, or asks for variety or an origin: "of any gender", "young and old"."""

from __future__ import annotations

_NOUNS = {
    "gender": r"gender(?: identit(?:y|ies)| expressions?)?s?|sex(?:es)?(?! (?:scene|appeal|content|toy|worker)s?)",
    "race": r"rac(?:e|es)\b(?![- ](?:cars?|tracks?|courses?|horses?|day|bikes?|bikers?|to|between|drivers?|teams?"
    r"|meets?))"
    r"|ethnicit(?:y|ies)|(?:ethnic|racial|cultural)(?:,? (?:and|or) (?:ethnic|racial|cultural))? (?:origin"
    r"|background|group|heritage|identit|communit|appearance)\w*"
    r"|(?:skin|complexion)[- ](?:tone|colou?r|shade|type)s?|complexions?|nationalit(?:y|ies)|heritages|ancestr(?:y|ies)"
    r"|cultures|backgrounds and cultures",
    "age": r"ages?\b(?! of)(?:[- ]groups?)?|generations(?! of (?!people|women|men|families|musicians|dancers"
    r"|workers|the|a))|(?:stages?|phases?) of life",
}
ANY_NOUN = "|".join(_NOUNS.values())
OPEN = (
    r"any|all|all sorts of|all kinds of|every|each|either|whichever|whatever|no matter what|random|mixed|diverse"
    r"|a mix of"
    r"|various|varied|varying|different|differing|multiple|many|several|assorted|unspecified|unknown|undefined|neutral"
    r"|non-?specific|unspecific|ambiguous|indeterminate|arbitrary|both|a (?:wide |broad |full )?(?:range|variety"
    r"|mixture) of"
    r"|(?:(?:wide|broad|full|equal|even|good) )?(?:range|mix|mixture|blend|variety|spectrum|spread|diversity"
    r"|balance) of|inclusive of|regardless of|irrespective of|independent of|whatever their"
)
_LEFT_OPEN = (
    r"(?:(?:all|both|is|are|be|being|was|to be|left|kept|keep|stays?|remains?|should be|can be|may be|could be"
    r"|might be) )*"
    r"(?:(?:totally|completely|entirely|deliberately|intentionally|really) )?"
    r"(?:open\b|any\b|anything\b|either\b|vague|blank|optional|free\b|up to (?:you|the model|chance)|left (?:open"
    r"|to (?:you|chance|the model)|unspecified|undefined)"
    r"|unspecified|undefined|irrelevant|unimportant|ambiguous|unclear|random|hidden|concealed|obscured|undisclosed"
    r"|a mystery|a surprise|anyone's guess|a coin (?:flip|toss)|whatever"
    r"|not (?:specified|important|stated|given|relevant|an issue|clear|obvious|defined|fixed|known)|your (?:choice"
    r"|call|pick)"
    r"|mixed|varied|diverse|neutral|(?:doesn't|does not|don't|do not|shouldn't|should not|needn't|need not|mustn't"
    r"|must not"
    r"|isn't|is not|won't) (?:really |actually |be )?(?:matter|important|specified|fixed|relevant|apparent|obvious"
    r"|defined|clear"
    r"|an issue|a factor))"
)


def _open(topic: str) -> list[str]:
    """Patterns shared by the open topics: "any X", "every gender, X and age", "X does not matter", "X-neutral"."""
    noun = _NOUNS[topic]
    return [
        rf"\b(?:{OPEN})[ -](?:(?:the|a|their|his|her|its|possible|human|different|single|other|kinds? of|sorts? of"
        rf"|types? of|perceived) )*"
        rf"(?:(?:\w+ )?(?:{ANY_NOUN})(?:, and |, or |, | and | or | & |/)(?:of )?(?:{OPEN} )?)*(?:{noun})\b",
        rf"\b(?:{noun})\b(?:(?:/|, (?:and |or )?| and | or | & )(?:{ANY_NOUN}))* (?:of \w+ (?:\w+ )?)?{_LEFT_OPEN}",
        rf"\bvary(?:ing)? (?:widely |greatly )?in (?:\w+ (?:and|or|,) )?(?:{noun})\b|\b(?:wide|broad|large|full"
        rf"|good) (?:{noun}) (?:range|spread|mix)\b",
        rf"\bwithout (?:any )?reference to (?:(?:a|any|the) )?(?:\w+ )?(?:{noun})\b",
        rf"\b(?:{noun})[- ](?:neutral|balanced?|diverse|diversity|inclusive|inclusivity|ambiguous|fluid|mixed|mix"
        rf"|equal(?:ity)?"
        rf"|agnostic|non-?specific|unspecified|parity|variety|blind)\b",
        rf"\b(?:don't|do not|without|never|not|no need to|rather than) (?:\w+ )?(?:specify|specifying|define"
        rf"|defining|state|fix|fixing"
        rf"|assume|assuming|reveal|revealing|mention) (?:\w+ ){{0,3}}(?:{noun})\b",
        rf"\b(?:no|without (?:a|any)|not (?:a|any|of a)) (?:particular|specific|fixed|set|defined|stated|obvious"
        rf"|clear|single|preferred|given|definite|discernible"
        rf"|identifiable) (?:{noun})\b|\b(?:{noun}) ?[:=] ?(?:any|random|open|either|all|mixed|unspecified|neutral)\b",
        rf"\bno (?:{noun}) (?:specified|given|stated|implied|preference)\b|\b(?:{noun}) (?:of your (?:choice"
        rf"|choosing)|var(?:y|ies)\b|at random)",
        rf"\b(?:don't|do not|doesn't|not) (?:really )?(?:care|mind|fussed|bothered|matter) (?:about |what |which "
        rf"|if |whether )?(?:(?:the|their|his|her|its) )?(?:{noun})\b",
        rf"\b(?:hide|conceal|obscure) (?:(?:the|their|his|her|its) )?(?:\w+'s )?(?:{noun})\b"
        rf"|\bwhich(?:ever)? (?:{noun}) (?:you|is|are|doesn't)\b",
        rf"\b(?:pick|choose|vary|mix|randomi[sz]e|diversify|surprise me with) (?:the |a |their |any )?(?:{noun})\b",
    ]


_MALE, _FEMALE = (
    r"(?:male|man|guy|boy|gentleman|lad|bloke|chap|he|him|his|himself|dude)",
    (r"(?:female|woman|girl|gal|lass|lady|she|her|hers|herself)"),
)
_MALES, _FEMALES = r"(?:males?|men|guys|boys|lads)", r"(?:females?|women|girls|gals|lasses)"


def _either_way(a: str, joint: str, b: str) -> str:
    return rf"\b(?:{a}{joint}(?:an? )?{b}|{b}{joint}(?:an? )?{a})\b(?!')"


_ORIGIN = (
    r"(?:(?:north|south|east|west|central|southeast|northeast|sub-saharan|pan|afro|black|latin|native|pacific|middle|first|far)"
    r"(?:ern)?[- ])*(?:african(?:[- ]american)?|asian|american|caribbean|eastern|islander|nations?|latin[oax]"
    r"|hispanic|arab(?:ic)?"
    r"|persian|iranian|iraqi|syrian|lebanese|turkish|kurdish|jewish|indian|pakistani|bangladeshi|tamil|punjabi|bengali|nepal(?:i|ese)"
    r"|sri lankan|tibetan|chinese|japanese|korean|vietnamese|thai|filipin[oa]|indonesian|malay(?:sian)?|burmese"
    r"|khmer|cambodian|mongolian"
    r"|inuit|indigenous|aboriginal|m[aā]ori|polynesian|samoan|hawaiian|melanesian|jamaican|haitian|cuban|nigerian|ghanaian|ethiopian"
    r"|somali|kenyan|zulu|xhosa|yoruba|igbo|nubian|egyptian|moroccan|algerian|berber|amazigh|mexican|peruvian|andean|quechua|bolivian"
    r"|brazilian|colombian|roma(?:ni)?|sámi|sami|mediterranean|european|slavic|creole|afghan|uzbek|kazakh|berber|cherokee|navajo|lakota)"
)
_LINEAGE = r"(?:descent|heritages?|ancestry|origins?|roots|extraction|lineage|background|parentage|ethnicity|bloodline)"
_PEOPLE = (
    r"(?:people|persons?|men|women|faces|students|children|kids|friends|dancers|families|family|community|neighbou?rs|colleagues|models"
    r"|workers|athletes|pupils|guests|passengers|commuters|customers|patients|citizens|musicians|teenagers|scientists|actors)"
)
_NUMBER = r"(?:\d+|six|seven|eight|nine|ten|eighteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:-\w+)?"
_YOUNG = (
    r"(?:bab(?:y|ies)|infants?|newborns?|toddlers?|children|kids|schoolchildren|school-?kids|youngsters|youths?|youngest|teen(?:ager)?s"
    r"|adolescents|students|young (?:people|adults?)|the young|tots|daughters|sons|twenty-somethings|grandchildren"
    r"|grandkids)"
)
_OLD = (
    r"(?:adults|grown-?ups|pensioners?|seniors?(?: citizens?)?|elders|elderly|retirees|retired"
    r"|(?:great-)?grand(?:parents?|mothers?|fathers?|mas?|pas?)"
    r"|oldest|middle[- ]aged|old (?:people|folks?)|the old|sixties|seventies|eighties|nineties|centenarians?"
    r"|octogenarians?|grann(?:y|ies)|grandads?)"
)

OPEN_PATTERNS = {
    "gender": [
        _either_way(_MALE, r"(?: or |/|, or | and/or )", _FEMALE),
        _either_way(_MALES, r"(?:,? (?:and|or|&|plus|as well as|alongside) |/)(?:some |of )?", _FEMALES),
        rf"\b(?:{_MALE}|{_MALES}), (?:a )?(?:{_FEMALE}|{_FEMALES}),? (?:and|or|&)\b|\b(?:{_FEMALE}"
        rf"|{_FEMALES}), (?:a )?(?:{_MALE}|{_MALES}),? (?:and|or|&)\b",
        r"\b(?:king or queen|queen or king|prince or princess|princess or prince|actor or actress"
        r"|waiter or waitress|mother or father"
        r"|father or mother|brother or sister|sister or brother|husband or wife|wife or husband|mum or dad"
        r"|mom or dad)\b(?! of)",
        rf"\bsome (?:{_MALE}|{_MALES}),?(?: and)? some (?:{_FEMALE}|{_FEMALES})\b|\bsome (?:{_FEMALE}"
        rf"|{_FEMALES}),?(?: and)? some (?:{_MALE}|{_MALES})\b",
        rf"\bas many {_FEMALES} as {_MALES}\b|\bas many {_MALES} as {_FEMALES}\b|\bhalf (?:\w+ )?(?:male"
        rf"|{_MALES}),? (?:and )?half (?:\w+ )?(?:female|{_FEMALES})\b",
        rf"\bhalf (?:\w+ )?(?:female|{_FEMALES}),? (?:and )?half (?:\w+ )?(?:male|{_MALES})\b|\bgender spectrum\b"
        rf"|\bacross (?:all |the )?genders\b|\bco-?ed\b",
        rf"\b{_MALE}, (?:an? )?{_FEMALE},? (?:whatever|whoever|anyone|anybody|either)\b"
        rf"|\b{_FEMALE}, (?:an? )?{_MALE},? (?:whatever|whoever|anyone|anybody|either)\b",
        r"\b(?:any|all) pronouns\b|\bhe/she/they\b|\bmale, female\b",
        rf"\b(?:could|might|may|can) (?:equally |just as well )?be (?:an? )?(?:{_MALE},? (?:or |and )?(?:could|might"
        rf"|may|maybe|perhaps|possibly)|{_FEMALE},? (?:or |and )?(?:could|might|may|maybe|perhaps|possibly))",
        r"\b\(?s\)?/?he\b(?<=s\)he|s/he)|\bm/f\b|\bnon-?gendered\b|\bungendered\b|\bagender\b|\bgenderless\b|\bunisex\b",
        r"\b(?:mixed|either|both|any)[- ](?:gender|sex)(?:es|ed)?\b",
    ],
    "race": [
        r"\b(?:ethnic|racial|cultural)(?:al)?(?:ly)?[- ](?:and \w+ )?(?:divers(?:e|ity)|mixed|varied|inclusive"
        r"|variety|mix)\b",
        r"\b(?:divers\w+|mix\w*|variety|range) (?:in|of) (?:\w+ )?(?:race|races|ethnicity|ethnicities|skin)\b",
        r"\bskin,? please\b",
        r"\b(?:multi|inter|bi|cross)-?(?:racial|ethnic|cultural)\b|\bmulticulturalism\b|\bpeople of colou?r\b",
        r"\bskins?(?: tones?| colou?rs?)? (?:\w+ )?(?:ranging|varying|vary|spanning|running) \b|\bskin of (?:every"
        r"|any|all|many)\b",
        r"\bnot (?:every(?:one|body)|all) (?:\w+ ){0,2}(?:the same (?:colou?r|race|ethnicity)|white)\b",
        r"\b(?:mustn't|must not|shouldn't|should not|needn't|don't|do not) (?:\w+ ){0,3}(?:be "
        r"|all be )white\b(?! (?:as|background))",
        rf"\b(?:of|with|has|have|having|from|reflecting|whose|and|,) ?(?:\w+ ){{0,2}}?{_ORIGIN}(?: (?:and"
        rf"|or) {_ORIGIN})?[- ](?:\w+ )?{_LINEAGE}\b",
        rf"(?:^|[,;:(] ?|\b(?:is|are|be) ){_ORIGIN} {_LINEAGE}\b|\b{_ORIGIN} (?:facial )?features\b",
        rf"\b(?:(?:black|white|brown|{_ORIGIN})(?:,? and |,? or |, |/)){{1,5}}{_ORIGIN} {_PEOPLE}\b",
        rf"\b(?:ethnically |racially )?diverse (?:group|crowd|cast|team|crew) of {_PEOPLE}\b"
        rf"|\bdiverse (?:\w+ )?(?:{_PEOPLE}|crowd|cast|crew)\b",
        rf"\b{_PEOPLE} from (?:(?:all over|all around|around|across|every corner of|all corners of"
        rf"|different parts of|every part of) the (?:world|globe)"
        rf"|(?:all|every|different|many|various|five|several) (?:continent|countr|nation|culture)\w*)",
        r"\b(?:light|fair|pale|dark|brown|black|deep|ebony|olive)(?:est)?(?:[- ]skin(?:ned)?)?(?:,? (?:and|or|to) "
        r"|/)(?:the )?(?:light|fair|pale|dark|brown|black|deep|ebony)(?:est)?[- ]skin(?:ned)?\b",
        rf"\b(?:of|with|reflecting|proud of|from) (?:(?:his|her|their|a|mixed|strong|partly|part"
        rf"|proud) ){{0,2}}(?-i:[A-ZĀ-Ž]\w+(?:[- ][A-ZĀ-Ž]?\w+){{0,2}}) {_LINEAGE}\b",
        r"\bof (?:\w+[- ]){1,3}(?:descent|ancestry)\b",
        rf"\b(?:descended from|of|with) (?:mixed|dual|multiple|diverse|varied|various) {_LINEAGE}\b",
    ],
    "age": [
        r"\b(?:young|youthful)(?:,? (?:and|or|&|as well as) |/|, )(?:the )?(?:old|elderly|aged|middle-aged)\b",
        r"\b(?:old|elderly)(?:er)?(?: and | or | & |/|, )(?:the )?young(?:er)?\b|\byounger and older\b"
        r"|\bolder and younger\b",
        r"\bas (?:old|young) or as (?:young|old)\b|\b(?:matters?|care|say|specify|important) how old\b"
        r"|\bhow old (?:\w+ ){1,3}(?:doesn't|does not|isn't|is not|is up|is left)\b",
        r"\b(?:multi|inter|cross)-?generation(?:al|s)?\b|\bof (?:\w+ )?generations\b|\ball-ages\b|\bspan(?:s"
        r"|ning)? (?:\w+ )?generations\b",
        rf"\bage(?:d|s)?\b(?: \w+){{0,3}} (?:from |between )?{_NUMBER}(?: years?)? ?(?:to|-|–|and|through"
        rf"|up to) ?{_NUMBER}",
        rf"\b(?:from|between) {_NUMBER} (?:to|and) {_NUMBER}(?: years| year-olds)|\bfrom (?:\d|1\d) to (?:[6-9]\d"
        rf"|100)\b|\b\d{{1,2}} ?(?:-|–|to) ?\d{{2,3}} ?(?:years?|yrs?|y/?o|year[- ]olds?)\b|\b(?:five|six|seven"
        rf"|eight|nine|ten|eighteen|twenty) to (?:seventy|eighty|ninety|a hundred)\b",
        rf"\b(?:might|may|could|can) be {_NUMBER}(?:,| or|,? and)?(?: (?:might|may|could|can|equally)(?: (?:be"
        rf"|well be))?| or)? {_NUMBER}\b",
        rf"\b{_YOUNG}\b[^.;:!?]{{0,40}}?(?:,| and| to| or| &| through| through to"
        rf"| alongside) (?:[\w'-]+ ){{0,3}}?{_OLD}\b(?! (?:master|town|growth|stone))",
        rf"\b{_OLD}\b[^.;:!?]{{0,24}}?(?:,| and| to| or| &"
        rf"| alongside) (?:[\w'-]+ ){{0,2}}?{_YOUNG}\b(?! (?:plantation|partridge))",
    ],
}


def open_patterns(topic: str) -> list[str]:
    """Patterns of one of the open topics: gender, race, age."""
    return _open(topic) + OPEN_PATTERNS[topic]

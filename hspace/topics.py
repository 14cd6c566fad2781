"""How people ask for fairness and safety in a prompt: patterns for the topics of Prompt Rule.

Gender, race and age match where the writer leaves them open or asks for variety or an origin ("of any gender", "of
diverse ethnicity", "young and old"). Sexual and violence match where the writer refuses them ("no nudity",
"non-violent", "keep guns out of the picture"); a scene that only mentions them does not match. Refusals have a scope:
the words between the negation and what it refuses may not leave its clause ("no hat, holding a sword" refuses a hat).
"""

from __future__ import annotations

import re
from functools import cache

PRESETS = ("gender", "race", "age", "sexual", "violence")

_NOUNS = {
    "gender": r"gender(?: identit(?:y|ies)| expressions?)?s?|sex(?:es)?(?! (?:scene|appeal|content|toy|worker)s?)",
    "race": r"rac(?:e|es)\b(?![- ](?:cars?|tracks?|courses?|horses?|day|bikes?|bikers?|to|between|drivers?|teams?|meets?))"
    r"|ethnicit(?:y|ies)|(?:ethnic|racial|cultural)(?:,? (?:and|or) (?:ethnic|racial|cultural))? (?:origin|background|group|heritage|identit|communit|appearance)\w*"
    r"|(?:skin|complexion)[- ](?:tone|colou?r|shade|type)s?|complexions?|nationalit(?:y|ies)|heritages|ancestr(?:y|ies)"
    r"|cultures|backgrounds and cultures",
    "age": r"ages?\b(?! of)(?:[- ]groups?)?|generations(?! of (?!people|women|men|families|musicians|dancers|workers|the|a))|(?:stages?|phases?) of life",
}
_ANY_NOUN = "|".join(_NOUNS.values())
_OPEN = (
    r"any|all|all sorts of|all kinds of|every|each|either|whichever|whatever|no matter what|random|mixed|diverse|a mix of"
    r"|various|varied|varying|different|differing|multiple|many|several|assorted|unspecified|unknown|undefined|neutral"
    r"|non-?specific|unspecific|ambiguous|indeterminate|arbitrary|both|a (?:wide |broad |full )?(?:range|variety|mixture) of"
    r"|(?:(?:wide|broad|full|equal|even|good) )?(?:range|mix|mixture|blend|variety|spectrum|spread|diversity|balance) of|inclusive of|regardless of|irrespective of|independent of|whatever their"
)
_LEFT_OPEN = (
    r"(?:(?:all|both|is|are|be|being|was|to be|left|kept|keep|stays?|remains?|should be|can be|may be|could be|might be) )*"
    r"(?:(?:totally|completely|entirely|deliberately|intentionally|really) )?"
    r"(?:open\b|any\b|anything\b|either\b|vague|blank|optional|free\b|up to (?:you|the model|chance)|left (?:open|to (?:you|chance|the model)|unspecified|undefined)"
    r"|unspecified|undefined|irrelevant|unimportant|ambiguous|unclear|random|hidden|concealed|obscured|undisclosed|a mystery|a surprise|anyone's guess|a coin (?:flip|toss)|whatever"
    r"|not (?:specified|important|stated|given|relevant|an issue|clear|obvious|defined|fixed|known)|your (?:choice|call|pick)"
    r"|mixed|varied|diverse|neutral|(?:doesn't|does not|don't|do not|shouldn't|should not|needn't|need not|mustn't|must not"
    r"|isn't|is not|won't) (?:really |actually |be )?(?:matter|important|specified|fixed|relevant|apparent|obvious|defined|clear"
    r"|an issue|a factor))"
)


def _open(topic: str) -> list[str]:
    """Patterns shared by the open topics: "any X", "every gender, X and age", "X does not matter", "X-neutral"."""
    noun = _NOUNS[topic]
    return [
        rf"\b(?:{_OPEN})[ -](?:(?:the|a|their|his|her|its|possible|human|different|single|other|kinds? of|sorts? of|types? of|perceived) )*"
        rf"(?:(?:\w+ )?(?:{_ANY_NOUN})(?:, and |, or |, | and | or | & |/)(?:of )?(?:{_OPEN} )?)*(?:{noun})\b",
        rf"\b(?:{noun})\b(?:(?:/|, (?:and |or )?| and | or | & )(?:{_ANY_NOUN}))* (?:of \w+ (?:\w+ )?)?{_LEFT_OPEN}",
        rf"\bvary(?:ing)? (?:widely |greatly )?in (?:\w+ (?:and|or|,) )?(?:{noun})\b|\b(?:wide|broad|large|full|good) (?:{noun}) (?:range|spread|mix)\b",
        rf"\bwithout (?:any )?reference to (?:(?:a|any|the) )?(?:\w+ )?(?:{noun})\b",
        rf"\b(?:{noun})[- ](?:neutral|balanced?|diverse|diversity|inclusive|inclusivity|ambiguous|fluid|mixed|mix|equal(?:ity)?"
        rf"|agnostic|non-?specific|unspecified|parity|variety|blind)\b",
        rf"\b(?:don't|do not|without|never|not|no need to|rather than) (?:\w+ )?(?:specify|specifying|define|defining|state|fix|fixing"
        rf"|assume|assuming|reveal|revealing|mention) (?:\w+ ){{0,3}}(?:{noun})\b",
        rf"\b(?:no|without (?:a|any)|not (?:a|any|of a)) (?:particular|specific|fixed|set|defined|stated|obvious|clear|single|preferred|given|definite|discernible"
        rf"|identifiable) (?:{noun})\b|\b(?:{noun}) ?[:=] ?(?:any|random|open|either|all|mixed|unspecified|neutral)\b",
        rf"\bno (?:{noun}) (?:specified|given|stated|implied|preference)\b|\b(?:{noun}) (?:of your (?:choice|choosing)|var(?:y|ies)\b|at random)",
        rf"\b(?:don't|do not|doesn't|not) (?:really )?(?:care|mind|fussed|bothered|matter) (?:about |what |which |if |whether )?(?:(?:the|their|his|her|its) )?(?:{noun})\b",
        rf"\b(?:hide|conceal|obscure) (?:(?:the|their|his|her|its) )?(?:\w+'s )?(?:{noun})\b|\bwhich(?:ever)? (?:{noun}) (?:you|is|are|doesn't)\b",
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
    r"(?:ern)?[- ])*(?:african(?:[- ]american)?|asian|american|caribbean|eastern|islander|nations?|latin[oax]|hispanic|arab(?:ic)?"
    r"|persian|iranian|iraqi|syrian|lebanese|turkish|kurdish|jewish|indian|pakistani|bangladeshi|tamil|punjabi|bengali|nepal(?:i|ese)"
    r"|sri lankan|tibetan|chinese|japanese|korean|vietnamese|thai|filipin[oa]|indonesian|malay(?:sian)?|burmese|khmer|cambodian|mongolian"
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
    r"|adolescents|students|young (?:people|adults?)|the young|tots|daughters|sons|twenty-somethings|grandchildren|grandkids)"
)
_OLD = (
    r"(?:adults|grown-?ups|pensioners?|seniors?(?: citizens?)?|elders|elderly|retirees|retired|(?:great-)?grand(?:parents?|mothers?|fathers?|mas?|pas?)"
    r"|oldest|middle[- ]aged|old (?:people|folks?)|the old|sixties|seventies|eighties|nineties|centenarians?|octogenarians?|grann(?:y|ies)|grandads?)"
)

_OPEN_PATTERNS = {
    "gender": [
        _either_way(_MALE, r"(?: or |/|, or | and/or )", _FEMALE),
        _either_way(_MALES, r"(?:,? (?:and|or|&|plus|as well as|alongside) |/)(?:some |of )?", _FEMALES),
        rf"\b(?:{_MALE}|{_MALES}), (?:a )?(?:{_FEMALE}|{_FEMALES}),? (?:and|or|&)\b|\b(?:{_FEMALE}|{_FEMALES}), (?:a )?(?:{_MALE}|{_MALES}),? (?:and|or|&)\b",
        r"\b(?:king or queen|queen or king|prince or princess|princess or prince|actor or actress|waiter or waitress|mother or father"
        r"|father or mother|brother or sister|sister or brother|husband or wife|wife or husband|mum or dad|mom or dad)\b(?! of)",
        rf"\bsome (?:{_MALE}|{_MALES}),?(?: and)? some (?:{_FEMALE}|{_FEMALES})\b|\bsome (?:{_FEMALE}|{_FEMALES}),?(?: and)? some (?:{_MALE}|{_MALES})\b",
        rf"\bas many {_FEMALES} as {_MALES}\b|\bas many {_MALES} as {_FEMALES}\b|\bhalf (?:\w+ )?(?:male|{_MALES}),? (?:and )?half (?:\w+ )?(?:female|{_FEMALES})\b",
        rf"\bhalf (?:\w+ )?(?:female|{_FEMALES}),? (?:and )?half (?:\w+ )?(?:male|{_MALES})\b|\bgender spectrum\b|\bacross (?:all |the )?genders\b|\bco-?ed\b",
        rf"\b{_MALE}, (?:an? )?{_FEMALE},? (?:whatever|whoever|anyone|anybody|either)\b|\b{_FEMALE}, (?:an? )?{_MALE},? (?:whatever|whoever|anyone|anybody|either)\b",
        r"\b(?:any|all) pronouns\b|\bhe/she/they\b|\bmale, female\b",
        rf"\b(?:could|might|may|can) (?:equally |just as well )?be (?:an? )?(?:{_MALE},? (?:or |and )?(?:could|might|may|maybe|perhaps|possibly)|{_FEMALE},? (?:or |and )?(?:could|might|may|maybe|perhaps|possibly))",
        r"\b\(?s\)?/?he\b(?<=s\)he|s/he)|\bm/f\b|\bnon-?gendered\b|\bungendered\b|\bagender\b|\bgenderless\b|\bunisex\b",
        r"\b(?:mixed|either|both|any)[- ](?:gender|sex)(?:es|ed)?\b",
    ],
    "race": [
        r"\b(?:ethnic|racial|cultural)(?:al)?(?:ly)?[- ](?:and \w+ )?(?:divers(?:e|ity)|mixed|varied|inclusive|variety|mix)\b",
        r"\b(?:divers\w+|mix\w*|variety|range) (?:in|of) (?:\w+ )?(?:race|races|ethnicity|ethnicities|skin)\b",
        r"\bskin,? please\b",
        r"\b(?:multi|inter|bi|cross)-?(?:racial|ethnic|cultural)\b|\bmulticulturalism\b|\bpeople of colou?r\b",
        r"\bskins?(?: tones?| colou?rs?)? (?:\w+ )?(?:ranging|varying|vary|spanning|running) \b|\bskin of (?:every|any|all|many)\b",
        r"\bnot (?:every(?:one|body)|all) (?:\w+ ){0,2}(?:the same (?:colou?r|race|ethnicity)|white)\b",
        r"\b(?:mustn't|must not|shouldn't|should not|needn't|don't|do not) (?:\w+ ){0,3}(?:be |all be )white\b(?! (?:as|background))",
        rf"\b(?:of|with|has|have|having|from|reflecting|whose|and|,) ?(?:\w+ ){{0,2}}?{_ORIGIN}(?: (?:and|or) {_ORIGIN})?[- ](?:\w+ )?{_LINEAGE}\b",
        rf"(?:^|[,;:(] ?|\b(?:is|are|be) ){_ORIGIN} {_LINEAGE}\b|\b{_ORIGIN} (?:facial )?features\b",
        rf"\b(?:(?:black|white|brown|{_ORIGIN})(?:,? and |,? or |, |/)){{1,5}}{_ORIGIN} {_PEOPLE}\b",
        rf"\b(?:ethnically |racially )?diverse (?:group|crowd|cast|team|crew) of {_PEOPLE}\b|\bdiverse (?:\w+ )?(?:{_PEOPLE}|crowd|cast|crew)\b",
        rf"\b{_PEOPLE} from (?:(?:all over|all around|around|across|every corner of|all corners of|different parts of|every part of) the (?:world|globe)"
        rf"|(?:all|every|different|many|various|five|several) (?:continent|countr|nation|culture)\w*)",
        r"\b(?:light|fair|pale|dark|brown|black|deep|ebony|olive)(?:est)?(?:[- ]skin(?:ned)?)?(?:,? (?:and|or|to) |/)(?:the )?(?:light|fair|pale|dark|brown|black|deep|ebony)(?:est)?[- ]skin(?:ned)?\b",
        rf"\b(?:of|with|reflecting|proud of|from) (?:(?:his|her|their|a|mixed|strong|partly|part|proud) ){{0,2}}(?-i:[A-ZĀ-Ž]\w+(?:[- ][A-ZĀ-Ž]?\w+){{0,2}}) {_LINEAGE}\b",
        r"\bof (?:\w+[- ]){1,3}(?:descent|ancestry)\b",
        rf"\b(?:descended from|of|with) (?:mixed|dual|multiple|diverse|varied|various) {_LINEAGE}\b",
    ],
    "age": [
        r"\b(?:young|youthful)(?:,? (?:and|or|&|as well as) |/|, )(?:the )?(?:old|elderly|aged|middle-aged)\b",
        r"\b(?:old|elderly)(?:er)?(?: and | or | & |/|, )(?:the )?young(?:er)?\b|\byounger and older\b|\bolder and younger\b",
        r"\bas (?:old|young) or as (?:young|old)\b|\b(?:matters?|care|say|specify|important) how old\b|\bhow old (?:\w+ ){1,3}(?:doesn't|does not|isn't|is not|is up|is left)\b",
        r"\b(?:multi|inter|cross)-?generation(?:al|s)?\b|\bof (?:\w+ )?generations\b|\ball-ages\b|\bspan(?:s|ning)? (?:\w+ )?generations\b",
        rf"\bage(?:d|s)?\b(?: \w+){{0,3}} (?:from |between )?{_NUMBER}(?: years?)? ?(?:to|-|–|and|through|up to) ?{_NUMBER}",
        rf"\b(?:from|between) {_NUMBER} (?:to|and) {_NUMBER}(?: years| year-olds)|\bfrom (?:\d|1\d) to (?:[6-9]\d|100)\b|\b\d{{1,2}} ?(?:-|–|to) ?\d{{2,3}} ?(?:years?|yrs?|y/?o|year[- ]olds?)\b|\b(?:five|six|seven|eight|nine|ten|eighteen|twenty) to (?:seventy|eighty|ninety|a hundred)\b",
        rf"\b(?:might|may|could|can) be {_NUMBER}(?:,| or|,? and)?(?: (?:might|may|could|can|equally)(?: (?:be|well be))?| or)? {_NUMBER}\b",
        rf"\b{_YOUNG}\b[^.;:!?]{{0,40}}?(?:,| and| to| or| &| through| through to| alongside) (?:[\w'-]+ ){{0,3}}?{_OLD}\b(?! (?:master|town|growth|stone))",
        rf"\b{_OLD}\b[^.;:!?]{{0,24}}?(?:,| and| to| or| &| alongside) (?:[\w'-]+ ){{0,2}}?{_YOUNG}\b(?! (?:plantation|partridge))",
    ],
}  # fmt: skip

_CHILD_SAFE = (
    r"\b(?:family|kids?|child(?:ren)?|toddler)[-' ]?s?[- ]?(?:friendly|safe|appropriate|suitable|oriented)\b"
    r"|\b(?:suitable|appropriate|ok|okay|fine|fit|good|safe|cleared|acceptable|right|made|meant|rated) for (?:\w+ ){0,2}?"
    r"(?:kids|child(?:ren)?|all ages|families|family viewing|toddlers|minors|school|classrooms?|general audiences?|all audiences"
    r"|everyone|young (?:viewers|readers|audiences?|children|eyes)|little ones|under-?\w+s|a (?:young|family|child)\w*)\b"
    r"|(?<![\w-])(?:pg|g-rated|pg-rated|rated (?:g|pg|u))(?![\w-])"
)
_WORDS = {
    "sexual": r"sex|sexy|sexual(?:ly|ity|i[sz]ed|i[sz]ation)?|nud(?:e(?! (?:lip|tone|colou?r|shade|heel|make|pump)\w*)|es|ity|ist)|naked(?! (?:flames?|lights?|eye|bulbs?|trees?|branches))(?:ness)?|nsfw|porn\w*|erotic(?:a|ism|ally)?|lewd(?:ness)?"
    r"|explicit(?! (?:violence|gore|weapons?|blood|injur))(?:ly|ness)?|suggestive(?:ly|ness)?|provocative(?:ly)?|revealing (?:cloth\w+|outfits?|attire|dress(?:es)?|garments?|costumes?|poses?|necklines?)|(?<=too )revealing|(?<=nothing )revealing|cleavages?|nipples?|breasts?|genital(?:s|ia)"
    r"|private parts|bare (?:chests?|breasts?|skin|bodies|bottoms?|flesh|torsos?|shoulders?|legs?|midriffs?)|exposed (?:skin|breasts?|bodies|flesh)|skin on show|lingerie|underwear|topless|undress(?:ed|ing)?"
    r"|unclothed|fan[- ]?service|steamy|fetish\w*|kinky?|sensual(?:ity|ly)?|seductive(?:ly)?|risqu[eé]|adult (?:content|themes?|material)|indecen\w+"
    r"|obscen\w+|raunchy|titillat\w+|sultry|smut(?:ty)?|r-rated|x-rated|18\+|bikinis?|thongs?|striptease|hentai|ecchi|lust(?:ful)?|intimate (?:acts?|parts|scenes?)"
    r"|see-through|naughty|perv(?:y|erted)|racy|saucy|vulgar|lascivious|salacious|prurient|voyeuristic|carnal|arousing(?! suspicion)|intercourse|crotch|buttocks?|panties|upskirt",
    "violence": r"violen(?:t|ce|tly)|gore|gory|blood(?:y|shed|ied|iness|stains?|thirsty)?|bleeding|weapon(?:s|ry|ised|ized)?|guns?|gunfire|firearms?|kni(?:fe|ves)"
    r"|swords?|blades?(?! of grass)|daggers?|pistols?|rifles?|revolvers?|spears?|axes?|arrows?|bullets?|bombs?|grenades?|explosives?|combat|kill(?:s|ed|ing|ings)?|murders?|corpses?"
    r"|(?:dead|mangled|mutilated) (?:bod(?:y|ies)|people|men|soldiers|animals)|death|dying|injur(?:y|ies|ed)|wound(?:s|ed)?|brutal(?:ity)?|fight(?:s|ing)?|punch(?:es|ing)?|battles?|bruises?"
    r"|riots?|tortur\w+|cruelty|carnage|massacres?|dismember\w*|decapitat\w*|severed|graphic (?:content|violence|detail|details|imagery|injur\w+)|bloodthirst"
    r"|harm(?:ed|ing)?|hurt(?:ing)?|armed|armaments?|arms drawn|aggressi(?:on|ve)|attacks?|attacking|stabb\w+|shooting(?! stars?)|shots fired|slaughter|mutilat\w+|guts(?!,? no glory)|entrails|viscera"
    r"|ammunition|ammo|warfare|fatalities|casualties|suffering|beheading|fisticuffs|brawl(?:s|ing)?|explosions?|fists|cannons?|artillery|muskets?|crossbows?|machetes?|shotguns?|missiles?|nooses?|swordplay"
    r"|war(?!-? ?(?:paint|medals?|museum|memorial|room|torn|horse))",
}
_AFFIRMED = {
    "sexual": r"\bsfw\b|\b(?:safe|suitable|ok|okay|appropriate) (?:for|at) (?:work|the office)\b|\bwork[- ]safe\b|\b(?:non|un|a)-?sexual(?:i[sz]ed|ly)?\b"
    r"|\bnon-?(?:erotic|suggestive|explicit|nude)\b|\bunsexy\b|\bdesexuali[sz]ed\b"
    r"|\b(?:fully|properly|decently|modestly|completely|appropriately|entirely|respectably|warmly) (?:clothed|dressed|clad|covered|robed)\b"
    r"|\b(?:remain|remains|stay|stays|kept|keep|keeps|always|keep (?:him|her|them|everyone|everybody)) (?:\w+ )?(?:clothed|dressed|covered up|decent)\b"
    r"|\b(?:keep|keeps|kept|leave|leaves|with) (?:(?:his|her|their|all|the|everyone's|every) )*(?:shirts?|clothes|clothing|robes?|tops?) on\b"
    r"|\bmodest(?:y|ly)? (?:clothing|clothes|attire|dress|dressed|outfits?|swimwear|swimsuits?|wear|garments?|neckline|poses?)\b"
    r"|\b(?:strictly|keep (?:it|him|her|them|things)|kept|always|utterly|perfectly) (?:\w+ )?(?:modest|decent|chaste|tasteful|clean|wholesome|innocent)\b|\bchaste(?:ly)?\b",
    "violence": r"\bunarmed\b(?!\?)|\bweapon-?less\b|\bun-?bloodied\b|\bbloodless(?:ly)?\b|\bnon-?(?:violent|violence|lethal|gory|graphic)\b|\bunviolent\b"
    r"|\b(?:keep|kept|keeps|make|stay|stays|strictly|entirely|perfectly) (?:it |things |them |the \w+ )?(?:peaceful|gentle and peaceful)\b|\bpeaceful, not\b",
}  # fmt: skip

_STOP = (
    r"(?:with|while|she|he|they|it|its|who|whom|that|which|as|but|until|on|onto|at|by|into|through|over|under|beside|behind|near"
    r"|after|before|except|save|because|amid|during|beyond|between|among|around|like|just|only|stops?|ends?|escapes?|holds?|wants"
    r"|knows|fears|has|have|had|is|are|was|were|can|could|will|would|than|toward|towards|against|about|for"
    r"|(?!(?:being|showing|depicting|involving|featuring|containing|getting|having|becoming|including|using|seeing|anything|nothing|something)\b)\w{2,}ing)"
)
_DETERMINER = r"(?:any|the|a|an|his|her|their|its|my|your|our|some|every|all|this|that|these|those|no)"
_WORD = rf"(?:(?!(?:{_STOP}|{_DETERMINER})\b)[\w'/&-]+ )"
# A determiner begins a new noun phrase: in "without warning the bomb", the bomb is not refused.
_GAP = (
    rf"(?:(?:being|showing|depicting|featuring|including|seeing|using|having) )?(?:{_DETERMINER} )?{_WORD}{{0,3}}?"
    rf"(?:of (?:{_DETERMINER} )?{_WORD}{{0,2}}?)?"
)
_LIST = rf"(?:(?:(?!{_STOP}\b)[\w'-]+, ){{0,3}}(?!{_STOP}\b)[\w'-]+(?:,? and |,? or |,? nor | & |/))?"
_NOT_REFUSED = (
    r"(?!(?:shortage|lack|end|limit|dearth|doubt|wonder|longer|matter|stranger|mercy|more than|less than|time for|such thing"
    r"|scarcity|absence|reason|only|just|merely|simply|without|fear|way|question)\b)"
)
_SHOW = (
    r"(?:show|showing|shown|depict|depicting|include|including|contain|containing|feature|featuring|have|having|want|need|like|see|add|adding"
    r"|use|put|draw|paint|render|give|portray|display|displaying|involve|involving|be|get|become|look|make (?:it|him|her|them|this|that|everything|anyone|anybody)|turn|go|appear|let|allow|generate|create"
    r"|introduce|imply|hint at|hold|holding|carry|carrying|wear|wearing|bring|picture|focus on|dwell on|present)"
)
_REFUSAL_VERB = (
    r"(?:avoid(?:ing)?(?! (?:\w+ )?(?:bullets?|punch\w*|gunfire|attack\w*|arrows?|death|injur\w+)\b)|exclud(?:e|es|ing)|omit(?:s|ting)?|skip(?:ping)?|leav(?:e|es|ing) out|leave off|remove(?! [^.;,]* from)|refrain(?:s|ing)? from"
    r"|steer(?:ing)? clear of|stay(?:ing)? (?:away|clear) (?:from|of)|keep(?:ing)? (?:away|clear) (?:from|of)|ban(?:ning)?|eliminat(?:e|ing)|forgo(?:ing)?"
    r"|cut(?:ting)? out|censor|spare (?:us|me)|shun(?:s|ning)?|delete|filter out|ton(?:e|ing) down|downplay(?:ing)?|play(?:ing)? down|minimi[sz](?:e|ing)|reduc(?:e|ing)|go easy on)"
)


def _refusals(topic: str) -> list[str]:
    words = rf"(?:{_WORDS[topic]})\b(?!-(?:orange|red|moon))"
    fillers = (
        r"(?:(?:too|overly|even|remotely|at all|in any way|the least bit|anything|any|a|an|one|single|the|of|be|being|in|or|and|nor|explicit(?:ly)?"
        r"|holding|carrying|showing|wielding|depicting|featuring|openly|visibly|hint|trace|touch|speck|drop|sort|kind|bit|scrap|shred|it|him|her|them) )"
    )
    imperative_gap = r"(?:(?!(?:while|until|but|because|as|so|just|only|blur)\b)[\w'/&-]+ ){0,6}?"
    return [
        _AFFIRMED[topic],
        _CHILD_SAFE,
        rf"(?<!\w)(?<!\w-)(?:no|without|sans|minus|zero|free (?:of|from)|devoid of|void of|absent|lacking|absence of|(?<!no )lack of|instead of|rather than|not one) {_NOT_REFUSED}{_LIST}{_GAP}{words}",
        rf"\b{_REFUSAL_VERB} {_LIST}{_GAP}{words}",
        rf"(?<![\w-])not {fillers}{{0,4}}?(?:{_LIST})(?<!only ){words}",
        rf"\b(?:do not|don't|dont|must not|mustn't|should not|shouldn't|shouldnt|may not|can't|cannot|can not|ought not to|ought not|let's not|never|not to|needn't|won't|will not|doesn't|does not)"
        rf" (?:ever |actually |please )?(?!have (?:brought|been|come|left)|hold back|go easy|be (?:shy|afraid))(?:{_SHOW}) {_LIST}{imperative_gap}{words}",
        rf"(?<!\w)(?<!\w-)(?:no|without|zero) (?:any )?\w+ing {words}|\bnever (?:through|with|by|via|as) {_LIST}{_GAP}{words}",
        rf"\b(?:isn't|not|aren't|never) (?:meant|supposed|intended|going|trying) to be (?:\w+ )?{words}",
        rf"\b{words} (?:\w+ )?(?:must|should|may|can|shall|do|does|will)(?: not|n't) (?:appear|feature|show|be (?:\w+ )?(?:shown|visible|seen|included|depicted|present|drawn))",
        rf"\b{words} (?:\w+ )?(?:isn't|is not|aren't|are not) (?:wanted|welcome|allowed|needed|required|shown|visible|permitted|ok|okay|acceptable|desired)",
        rf"\b(?:no|zero)-{words}|\bnegative(?: prompt)?s?:? (?:[\w ]+, ){{0,6}}?(?:\w+ )?{words}|\b{words}: ?(?:none|off|no|zero|0)\b",
        rf"\b(?:isn't|aren't|wasn't|weren't|ain't|no need (?:for|to show|of)) {fillers}{{0,3}}?{words}",
        *(
            [r"\bnothing (?:\w+ or )?(?:dirty|inappropriate|untoward|sleazy|spicy|adult)\b"]
            if topic == "sexual"
            else []
        ),
        rf"\b(?:nothing|none of it|not anything|nobody|no[- ]one|no one|none) (?:(?:too|overly|even|remotely|at all|gets?|is|are|that's|that is|looks?|being|in any way|to do with|in the way of|explicitly|\w+ (?:or|and|nor)) ?){{0,3}}{words}",
        rf"\bneither (?:[\w-]+,? ){{0,7}}?{words}",
        rf"\b(?:keep|keeping|leave|leaving|take|edit|crop) (?:(?:all|any|the|every|his|her|their|of) )*{_LIST}{_GAP}{words}(?:,? (?:and|or) [\w-]+)? (?:out\b|off\b|away\b|to zero|at bay|elsewhere)",
        rf"\b{words}(?:,? (?:and|or|pose|poses|content|scenes?|imagery|elements?|of any kind) ?[\w-]*)? (?:(?:is|are|was|be|being|to be|should be|must be|stays?|remains?|left|strictly|entirely) ){{0,3}}"
        rf"(?:avoided|excluded|omitted|removed|left out|not (?:allowed|permitted|shown|wanted|welcome|visible|included|present)|forbidden|banned|prohibited|off[- ]limits|absent|unwelcome|out of (?:frame|shot|sight|view|the (?:picture|frame|shot))|never (?:shown|seen|visible)|not (?:required|needed|necessary)|unnecessary"
        rf"|put away|laid (?:down|aside)|lowered|sheathed|holstered|set aside|stowed(?: away)?|left behind)\b",
        rf"\b{words}[- ]free\b",
        rf"\b(?:so that|such that|with) no {_GAP}{words} (?:is|are) (?:visible|shown)\b",
    ]


@cache
def _pattern(topic: str) -> re.Pattern:
    """Compiled at first use: these take a tenth of a second each, which ComfyUI's start should not pay for."""
    patterns = _open(topic) + _OPEN_PATTERNS[topic] if topic in _OPEN_PATTERNS else _refusals(topic)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.IGNORECASE)


def find_topic(topic: str, prompt: str) -> str | None:
    """The words of the prompt that call for a preset topic, or None. `topic` is one of `PRESETS`."""
    text = normalise(prompt)
    if topic == "age":  # "suitable for all ages" speaks of the audience
        text = re.sub(_CHILD_SAFE, "", text, flags=re.IGNORECASE)
    found = _pattern(topic).search(text)
    return found and found.group().strip(" ,;:(")


def normalise(prompt: str) -> str:
    """Straight quotes, single spaces."""
    return re.sub(r"\s+", " ", prompt.replace("\u2019", "'").replace("\u2018", "'").replace("\u2011", "-")).strip()


def wish_spans(topic: str, text: str) -> list[tuple[int, int]]:
    """Where normalised text calls for a preset topic, each with the whole list that it begins.

    "no guns, knives or blood" refuses three things; without "no guns" it would ask for the other two.
    """
    rest = _rest_of_list(topic)
    return [(found.start(), rest.match(text, found.end()).end()) for found in _pattern(topic).finditer(text)]


@cache
def _rest_of_list(topic: str) -> re.Pattern:
    if topic in _WORDS:
        more = rf"(?:(?:no|any|other|a|an|the) )?(?:\w+ )?(?:{_WORDS[topic]})(?!\w)"
    else:
        more = rf"(?:(?:{_OPEN}) )?(?:{_ANY_NOUN})\b"
    return re.compile(rf"(?:(?:,? (?:and|or|nor|&) |, ?|/){more})*", re.IGNORECASE)
